"""What a terminal is sent, and what a pipe."""
import os, pty, subprocess, sys
from pathlib import Path
import pytest
from PIL import Image

NAMES = dict(clears='a\x1b[2J.png', rings='b\x07.png', turns='c\u202egnp.exe.png', returns='d\rsafe.png')


def printed(words, terminal):
    "All that a command prints, to a terminal or to a pipe."
    if not terminal: return subprocess.run([sys.executable, '-m', 'sphere_mnist', *words], capture_output=True, check=True).stdout
    ours, its = pty.openpty()
    with subprocess.Popen([sys.executable, '-m', 'sphere_mnist', *words], stdout=its, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL):
        os.close(its)
        said = b''
        try:
            while part := os.read(ours, 10_000): said += part
        except OSError: pass # the other side has gone
    os.close(ours)
    return said


@pytest.mark.skipif(os.name != 'posix', reason='terminals of other systems')
@pytest.mark.parametrize('what', NAMES)
def test_names_do_not_steer_a_terminal(what, tmp_path):
    for name in (NAMES[what], 'z.png'): Image.new('L', (9, 9), 7).save(tmp_path/name) # copies, which `check` names
    words = ['check', str(tmp_path), '--out', str(tmp_path/'audit.csv')]
    said = printed(words, terminal=True)
    assert b'copy' in said and not {*said} & {*b'\x1b\x07'} and '\u202e'.encode() not in said and b'\rsafe' not in said, said
    assert repr(NAMES[what])[1:-1].encode() in said


def test_a_pipe_gets_names_as_they_are(tmp_path):
    stroke = Image.new('L', (28, 28))
    stroke.paste(255, (12, 4, 16, 24))
    stroke.save(picture := tmp_path/NAMES['clears'])
    assert str(picture).encode() in printed(['predict', str(picture)], terminal=False)
    said = printed(['predict', str(picture)], terminal=True)
    assert b'\x1b' not in said and rb'a\x1b[2J.png' in said
