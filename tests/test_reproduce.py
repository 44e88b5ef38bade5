"The table of published figures: at once, from the ledgers alone; and the runs that are missing."
import json, subprocess, sys
import pytest
from sphere_mnist import reproduce as room
from sphere_mnist.cli import main
from sphere_mnist.data import InputError


def test_the_table_loads_no_networks():
    call = "import sys; from sphere_mnist.cli import main; status = main(['reproduce']); assert 'torch' not in sys.modules; sys.exit(status)"
    done = subprocess.run([sys.executable, '-c', call], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == room.table()
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {*room.FIGURES}


@pytest.fixture
def small(monkeypatch, tmp_path):
    "A figure that a second of training answers, and its folders."
    settings = dict(system='spherical', preset='published', data='digits')
    monkeypatch.setitem(room.FIGURES, '999-small', room.Figure('nowhere', .5, settings, 1, 'small', seeds=2))
    return ['reproduce', '999-small', '--results', str(tmp_path), '--runs', str(tmp_path/'runs')], tmp_path


def test_missing_runs_are_run_once(small, capfd):
    call, folder = small
    (folder/'small.jsonl').write_text(json.dumps(dict(room.wanted(room.FIGURES['999-small']), seed=1, draw='published', acc=.4, seconds=1.)) + '\n')
    assert main(call) == 0
    said = capfd.readouterr().out
    rows = [json.loads(line) for line in (folder/'small.jsonl').read_text().splitlines()]
    assert [row['seed'] for row in rows] == [1, 0] and '2/2' in said and 'within its deviation' in said
    assert main(call) == 0 and 'sphere_mnist cluster' not in capfd.readouterr().out


def test_hours_that_are_over_leave_what_is_left(small, capfd):
    call, folder = small
    assert main([*call, '--hours', '0.00001']) == 0
    assert 'the same command goes on' in capfd.readouterr().out and not (folder/'small.jsonl').exists()


def test_a_run_that_was_stopped_goes_on(small):
    call, folder = small
    out = room.folder_of('999-small', 0, folder/'runs')
    assert '--resume' not in room.command('999-small', 0, folder/'runs', folder)
    out.mkdir(parents=True)
    (out/'config.yaml').write_text('system: spherical')
    assert '--resume' in room.command('999-small', 0, folder/'runs', folder)


def test_a_run_that_fails_is_an_error(small, monkeypatch):
    call, folder = small
    monkeypatch.setitem(room.FIGURES, '999-small', room.Figure('nowhere', .5, dict(system='nothing'), 1, 'small'))
    with pytest.raises(InputError, match='ended with status 2'): room.reproduce(['999-small'], results=str(folder), runs=str(folder/'runs'))
