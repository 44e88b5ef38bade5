"""The web page in a real browser: it is drawn on with the mouse, and its answers are read."""
import base64, http.client, json, os, re, signal, subprocess, sys, time, zipfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw
from sphere_mnist.cli import main
from browser import chromium, keep, no_wider_than_the_window, visit # noqa: F401, chromium is a fixture

pytest.importorskip('gradio', reason="the extra is not installed: pip install 'sphere_mnist[demo]'")
root = Path(__file__).parent.parent
SEVEN = [(-.6, -.9), (.6, -.9), (-.15, .9)]
# A connection to any other machine, or the question where one is, is refused and told.
GUARD = '''
import ipaddress, socket, sys
def at_home(host):
    try: return host in (None, '', 'localhost') or ipaddress.ip_address(host).is_loopback
    except ValueError: return False
def guarded(original, host_of):
    def checked(*args, **more):
        if not at_home(host_of(args)):
            print('elsewhere:', host_of(args), file=sys.stderr, flush=True)
            raise OSError('no network')
        return original(*args, **more)
    return checked
socket.getaddrinfo = guarded(socket.getaddrinfo, lambda a: a[0])
for name in ('connect', 'connect_ex'):
    setattr(socket.socket, name, guarded(getattr(socket.socket, name), lambda a: a[1][0] if isinstance(a[1], tuple) else None))
from sphere_mnist.cli import main
sys.exit(main(['demo']))
'''


@contextmanager
def serving(folder, quiet=True):
    "The address of the page and its process; Ctrl-C ends it as a person would, without a complaint, and no file is left."
    (folder/'tmp').mkdir()
    env = dict(os.environ, PYTHONPATH=str(root), TMPDIR=str(folder/'tmp'), OMP_NUM_THREADS='1')
    with open(folder/'stderr', 'w') as err:
        process = subprocess.Popen([sys.executable, '-c', GUARD], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        line = process.stdout.readline() # ends with the process, at the latest
        assert (said := re.match(r'(http://127\.0\.0\.1:\d+) is the page', line)), (line, (folder/'stderr').read_text())
        yield said[1], process
        working = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not [p for p in working if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if quiet: assert (folder/'stderr').read_text() == ''
        assert not [*(folder/'tmp').rglob('sphere_mnist-demo-*')]
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(scope='module')
def server(chromium, tmp_path_factory): # no server where there is no browser
    with serving(tmp_path_factory.mktemp('server')) as (address, _): yield address


@pytest.fixture(params=[1280, 390], ids=['desk', 'phone'])
def page(chromium, server, request):
    with visit(chromium, server, width=request.param) as page:
        page.wait_for_selector('#pad canvas')
        page.wait_for_selector('#map .js-plotly-plot')
        page.get_by_role('heading', name='Draw a digit').wait_for()
        yield page


def draw(page, strokes):
    "With the mouse, in the middle of the sketch pad."
    box = page.locator('#pad canvas').first.bounding_box()
    x, y, size = box['x'] + box['width']/2, box['y'] + box['height']/2, .3*box['width']
    at = [(x + size*dx, y + size*dy) for dx, dy in strokes]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]: page.mouse.move(*point, steps=8)
    page.mouse.up()


def answer(page):
    "What is said once a digit is there."
    page.wait_for_selector('#neighbours img')
    return page.locator('#answer').inner_text()


def test_draw_a_digit(page, tmp_path):
    draw(page, SEVEN)
    said = answer(page)
    assert re.search('a 7', said) and re.search(r'\d+% confident. It lies \d+° from the centre of cluster 7', said), said
    assert page.locator('#neighbours img').count() == 2 + 3 + 4 + 6
    assert all(page.locator('#neighbours img').evaluate_all('images => images.map(i => i.alt.length > 0 && i.naturalWidth == 28)'))
    traces = page.evaluate("document.querySelector('#map .js-plotly-plot').data.map(t => t.name)")
    assert traces[-1] == 'yours' and set('0123456789') <= set(traces)
    keep(page, f'demo-digit-{page.viewport_size["width"]}', tmp_path)
    assert no_wider_than_the_window(page)


def settled(part):
    "A picture of a part of the page, once it stays the same."
    before = None
    for _ in range(60):
        now = part.screenshot()
        if now == before: break
        before = now
        time.sleep(.5)
    return np.array(Image.open(BytesIO(now)).convert('RGB'))


def test_walk_and_turn_the_globe(chromium, server, tmp_path):
    with visit(chromium, server, width=390) as page:
        page.get_by_role('tab', name='Walk').click()
        page.wait_for_selector('#seen img')
        page.locator('#share input[type=number]').fill('100')
        page.keyboard.press('Enter')
        page.get_by_text('100 % of the way from 4 to 9: the model would call this a 9').wait_for()
        assert page.locator('#seen img').count() == 1 + 4 + 9
        keep(page, 'demo-walk', tmp_path)
        assert no_wider_than_the_window(page)
        page.get_by_role('tab', name='Globe').click()
        page.wait_for_selector('#small canvas')
        before, box = settled(page.locator('#small')), page.locator('#small .js-plotly-plot').bounding_box()
        x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 90, y + 20, steps=6)
        page.mouse.up()
        turned = np.abs(settled(page.locator('#small')).astype(int) - before).max(2) > 30
        assert turned.mean() > .05
        keep(page, 'demo-globe', tmp_path)


def test_upload_a_picture(chromium, server, tmp_path):
    picture = Image.new('RGB', (300, 400), (240, 235, 220)) # white chalk it is not: dark ink on cream
    ImageDraw.Draw(picture).line([(150 + 90*x, 200 + 120*y) for x, y in SEVEN], fill=(40, 40, 110), width=22, joint='curve')
    picture.save(tmp_path/'seven.png')
    Image.new('RGB', (300, 400), 'white').save(tmp_path/'blank.png')
    with visit(chromium, server) as page:
        page.wait_for_selector('#map .js-plotly-plot')
        page.get_by_role('tab', name='Upload').click()
        page.locator('#photo input[type=file]').first.set_input_files(tmp_path/'seven.png')
        assert 'a 7' in answer(page)
        assert page.locator('#photo img').evaluate('i => i.naturalWidth') == 300
        page.locator('#photo').get_by_role('button', name='Remove').click()
        page.get_by_role('heading', name='Draw a digit').wait_for()
        (tmp_path/'notes.png').write_text('no picture')
        page.locator('#photo input[type=file]').first.set_input_files(tmp_path/'notes.png')
        page.get_by_text('This file cannot be read as a picture').wait_for()
        page.locator('#photo input[type=file]').first.set_input_files(tmp_path/'blank.png')
        page.get_by_role('heading', name='Nothing to see yet').wait_for()
        page.get_by_role('button', name='Take a handwritten digit at random').click()
        assert 'confident' in answer(page)


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['demo']) == 2
    assert capsys.readouterr().err == "sphere_mnist: the web page needs gradio, which is not installed: pip install 'sphere_mnist[demo]'\n"


def test_take_a_picture(chromium, server): # the browser's own test pattern, which is no digit
    with visit(chromium, server) as page:
        page.wait_for_selector('#map .js-plotly-plot')
        page.get_by_role('tab', name='Upload').click()
        page.locator('#photo').get_by_role('button', name='Camera').click()
        page.wait_for_function("document.querySelector('#photo video').videoWidth > 0")
        page.locator('#photo').get_by_role('button', name='Take the picture').click()
        page.wait_for_function("document.querySelector('#photo img').naturalWidth > 2")
        assert page.evaluate("document.querySelector('#photo video').srcObject === null")


@pytest.fixture(scope='module')
def attacked(tmp_path_factory):
    "A server of its own, which may complain, and a file that is nobody's business."
    folder = tmp_path_factory.mktemp('attacked')
    (folder/'secret.png').write_bytes(b'not for anyone else')
    (folder/'secret.png').chmod(0o600)
    with serving(folder, quiet=False) as (address, process): yield address.removeprefix('http://'), process, folder


def ask(address, method, path, body=None, **headers):
    "Status and text of an answer."
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body, {k.replace('_', '-'): v for k, v in headers.items()} | ({'content-type': 'application/json'} if body else {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors='replace')
    finally: connection.close()


def tell(address, function, *data):
    "What the page's function says of what a client sends."
    body = json.dumps(dict(data=data, fn_index=function, session_hash='attacker'))
    assert ask(address, 'POST', '/gradio_api/queue/join', body)[0] == 200
    return ask(address, 'GET', '/gradio_api/queue/data?session_hash=attacker')[1]


@pytest.mark.parametrize('what', ['path', 'url', 'nested'])
def test_no_file_is_given_away(attacked, what):
    address, process, folder = attacked
    path, meta = str(folder/'secret.png'), dict(_type='gradio.FileData')
    sent = dict(path=dict(path=path, meta=meta), url=dict(path='x.png', url=f'file://{path}', meta=meta), nested=dict(value=[dict(path=path, meta=meta)]))[what]
    for function in (0, 1): tell(address, function, sent)
    assert not [f for f in (folder/'tmp').rglob('*') if f.is_file() and b'not for anyone else' in f.read_bytes()]
    for place in (f'/gradio_api/file={path}', f'/file={path}', f'/gradio_api/file/{path}', f'/gradio_api/file=../..{path}', f'/static/../../..{path}', f'/assets/..%2f..%2f..{path}'):
        status, text = ask(address, 'GET', place)
        assert status >= 400 and 'anyone else' not in text, (place, status)


def test_a_pipe_does_not_hold_up_the_server(attacked):
    address, process, folder = attacked
    os.mkfifo(folder/'pipe.png')
    tell(address, 0, dict(path=str(folder/'pipe.png'), meta=dict(_type='gradio.FileData')))
    assert ask(address, 'GET', '/')[0] == 200 # and Ctrl-C ends it: `serving` tries


@pytest.mark.parametrize('host', ['rebound.example', 'rebound.example:{}', '127.0.0.1.rebound.example:{}', '192.168.0.7:{}'])
def test_only_this_machine_is_answered(attacked, host):
    address = attacked[0]
    assert ask(address, 'GET', '/config', Host=host.format(address.partition(':')[2]))[0] == 421
    assert ask(address, 'GET', '/config', Host='localhost:' + address.partition(':')[2])[0] == 200


@pytest.mark.parametrize('origin', ['https://rebound.example', 'http://127.0.0.1.rebound.example', 'null'])
def test_foreign_pages_may_not_ask(attacked, origin):
    address, body = attacked[0], json.dumps(dict(data=[''], fn_index=0, session_hash='foreign'))
    assert ask(address, 'POST', '/gradio_api/queue/join', body, Origin=origin)[0] == 403
    assert ask(address, 'POST', '/gradio_api/queue/join', body, Origin=f'http://{address}')[0] == 200


@pytest.mark.parametrize('size', [(13_000, 13_000), (9000, 10_000), (300_000, 300)])
def test_pictures_have_a_limit(attacked, size):
    address, process, _ = attacked
    Image.new('1', size).save(file := BytesIO(), 'PNG')
    said = tell(address, 1, 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode())
    assert 'million pixels' in said, said[:300]
    assert psutil.Process(process.pid).memory_info().rss < 2e9


@pytest.mark.parametrize('status, header', [(413, ('Content-Length', '30000000')), (411, ('Transfer-Encoding', 'chunked')), (411, ('X-Length', '3'))])
def test_uploads_have_a_limit(attacked, status, header):
    connection = http.client.HTTPConnection(attacked[0], timeout=30)
    connection.putrequest('POST', '/gradio_api/queue/join')
    connection.putheader(*header)
    connection.endheaders()
    assert connection.getresponse().status == status # before anything of the body is sent
    connection.close()
    assert ask(attacked[0], 'POST', '/gradio_api/upload', b'0'*1000)[0] == 404


def bars(folder):
    "Three kinds of pictures, ten of each."
    folder.mkdir()
    for n in range(30):
        array = np.random.default_rng(n).integers(0, 60, (28, 28), dtype=np.uint8)
        array[:, n % 3*8:n % 3*8 + 6] += 150
        Image.fromarray(array).save(folder/f'{n:02}.png')
    return folder


def archive(file, **entries):
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as f:
        for name, content in entries.items(): f.writestr(name, content)
    return file


def drop(page, where, path):
    "Let go of a file or a folder over an element, as from a window of files."
    box, session = page.locator(where).first.bounding_box(), page.context.new_cdp_session(page)
    for moment in ('dragEnter', 'dragOver', 'drop'):
        data = dict(items=[], files=[str(path)], dragOperationsMask=1)
        session.send('Input.dispatchDragEvent', dict(type=moment, x=box['x'] + box['width']/2, y=box['y'] + box['height']/2, data=data))


def test_a_folder_of_ones_own(chromium, server, tmp_path):
    pictures = bars(tmp_path/'pictures')
    with visit(chromium, server) as page:
        page.get_by_role('tab', name='Your pictures').click()
        page.locator('#yours .clusters').fill('3')
        drop(page, '#yours .ask label', pictures) # which the browser packs
        page.get_by_text('Done. Everything here goes').wait_for(timeout=400_000)
        assert page.frame_locator('#yours iframe').locator('#legend button').count() >= 3
        page.wait_for_function("document.querySelector('#yours img').naturalWidth > 100")
        with page.expect_download() as got: page.get_by_role('link', name='Download the sorted pictures').click()
        with zipfile.ZipFile(got.value.path()) as found:
            names = [name for name in found.namelist() if name.endswith('.png')]
            assert sorted(Path(name).name for name in names) == sorted(p.name for p in pictures.iterdir()) and all(name.startswith(('cluster-', '_unsure/')) for name in names)
            assert all(found.read(name) == (pictures/Path(name).name).read_bytes() for name in names) and found.testzip() is None
        keep(page, 'demo-pictures', tmp_path)
        assert no_wider_than_the_window(page)


def test_an_archive_that_is_dropped_and_stopped(chromium, server, tmp_path):
    pictures = bars(tmp_path/'pictures')
    packed = archive(tmp_path/'all.zip', **{p.name: p.read_bytes() for p in pictures.iterdir()})
    with visit(chromium, server, width=390) as page:
        page.get_by_role('tab', name='Your pictures').click()
        for moment in ('Sending', 'Working'): # stopped at either, it is in nobody's way
            if moment == 'Sending': page.locator('#yours .zip').set_input_files(packed)
            else:
                page.locator('#yours .folder').set_input_files(pictures)
                page.wait_for_function("!['Packing', 'Sending', 'Stopped.'].includes(document.querySelector('#yours [role=status]').textContent)")
            page.locator('#yours .stop').click()
            page.get_by_text('Stopped.').wait_for()
        (tmp_path/'notes.zip').write_text('no archive')
        page.locator('#yours .zip').set_input_files(tmp_path/'notes.zip')
        page.get_by_text('this is no archive that can be read').wait_for()
        assert no_wider_than_the_window(page)


def link(target):
    "An entry of an archive that is a link."
    entry = zipfile.ZipInfo('a.png')
    entry.external_attr = 0o120777 << 16
    return {entry: target}


HOSTILE = dict( # entries of an archive, what is said
    outside=({'../../outside.png': b'x'}, 'leads outside'),
    absolute=({'/tmp/outside.png': b'x'}, 'leads outside'),
    backslashes=({'..\\..\\outside.png': b'x'}, 'leads outside'),
    a_link=(link('../secret.png'), 'a.png cannot be read as a picture'),
    a_link_to_a_device=(link('/dev/zero'), 'a.png cannot be read as a picture'),
    a_bomb=({f'{n}.png': bytes(19_000_000) for n in range(3)}, 'unpacks to 57 MB, and 50 MB are the most'),
    a_large_one=({'a.png': bytes(20_000_001)}, 'a.png has 20 MB, and 20 MB are the most'),
    many={}, no_pictures=({'a.txt': b'x'}, 'holds no pictures'))
HOSTILE['many'] = ({f'{n}.png': b'' for n in range(50)}, 'lists 50 files, and 40 are the most')


@pytest.mark.parametrize('case', HOSTILE)
def test_archives_that_mean_mischief(case, tmp_path, monkeypatch, capsys):
    from sphere_mnist import demo
    entries, words = HOSTILE[case]
    (here := tmp_path/'in'/'here').mkdir(parents=True)
    monkeypatch.chdir(here)
    (tmp_path/'in'/'secret.png').write_bytes(b'not for anyone else')
    with zipfile.ZipFile('pictures.zip', 'w', zipfile.ZIP_DEFLATED) as f:
        for name, content in entries.items(): f.writestr(name, content)
    monkeypatch.setattr(demo.check_archive, '__defaults__', (50_000_000, 40))
    with pytest.raises(SystemExit) as ended: demo.sort_pictures(2)
    assert words in str(ended.value) and str(tmp_path) not in str(ended.value), ended.value
    assert not [*tmp_path.rglob('outside*')] and not [p for p in here.rglob('*') if p.is_symlink()] and not Path('sorted.zip').exists()


KEY = '0'*32


@pytest.mark.parametrize('method, path, headers, status', [
    ('GET', f'/pictures/{KEY}', {}, 404), ('GET', f'/pictures/{KEY}/map.html', {}, 404), ('GET', f'/pictures/{KEY}/../../secret.png', {}, 404),
    ('GET', f'/pictures/{KEY}/pictures.zip', {}, 404), ('GET', '/pictures/..%2f..%2fsecret.png', {}, 404), ('GET', f'/pictures/{KEY}', dict(Host='rebound.example'), 421),
    ('POST', '/pictures', dict(Origin='https://rebound.example'), 403), ('POST', '/pictures', {'Content-Length': '5000'}, 413),
    ('PUT', f'/pictures/{KEY}?clusters=3', dict(Origin='https://rebound.example'), 403), ('PUT', f'/pictures/{KEY}?clusters=3', {'Transfer-Encoding': 'chunked'}, 411),
    ('PUT', f'/pictures/{KEY}?clusters=3', {'Content-Length': '500000001'}, 413), ('PUT', f'/pictures/{KEY}?clusters=1', {'Content-Length': '0'}, 400),
    ('PUT', f'/pictures/{KEY}?clusters=3;import', {'Content-Length': '0'}, 400), ('PUT', f'/pictures/{KEY}?clusters=3', {'Content-Length': '0'}, 404),
    ('PUT', '/pictures?clusters=3', {'Content-Length': '0'}, 404), ('POST', f'/pictures/{KEY}/end', {'Content-Length': '0'}, 200)])
def test_what_nobody_gets(attacked, method, path, headers, status):
    connection = http.client.HTTPConnection(attacked[0], timeout=30)
    connection.putrequest(method, path, skip_host='Host' in headers)
    for name, value in headers.items(): connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


def test_one_works_at_a_time_and_leaves_nothing(attacked, tmp_path):
    address, process, folder = attacked
    body = archive(tmp_path/'all.zip', **{p.name: p.read_bytes() for p in bars(tmp_path/'pictures').iterdir()}).read_bytes()
    def begin(): return json.loads(ask(address, 'POST', '/pictures', b'')[1])['key']
    def send(key): return ask(address, 'PUT', f'/pictures/{key}?clusters=3', body)
    busy = (429, 'Other pictures are being sorted: stop that, or wait for its end.')
    key, later = begin(), begin()
    assert send(key) == (200, '') and send(later) == ask(address, 'POST', '/pictures', b'') == busy and send(later)[0] == 404
    assert json.loads(ask(address, 'GET', f'/pictures/{key}')[1])['state'] == 'working' and ask(address, 'GET', f'/pictures/{key}/sorted.zip')[0] == 404
    place, = (folder/'tmp').rglob(key)
    assert place.stat().st_mode & 0o77 == 0
    assert ask(address, 'POST', f'/pictures/{key}/end', b'')[0] == 200
    assert not place.exists() and ask(address, 'GET', f'/pictures/{key}')[0] == 404
    half = http.client.HTTPConnection(address, timeout=30) # ended while its pictures are on their way: they start nothing
    half.putrequest('PUT', f'/pictures/{(key := begin())}?clusters=3')
    half.putheader('content-length', str(len(body)))
    half.endheaders(body[:100])
    while not [*(folder/'tmp').rglob(f'{key}/pictures.zip')]: time.sleep(.02)
    assert ask(address, 'POST', f'/pictures/{key}/end', b'')[0] == 200
    half.send(body[100:])
    assert half.getresponse().status == 429 and not [*(folder/'tmp').rglob(key)]
    half.close()
    assert send(begin())[0] == 200 # and goes on until the server ends: `serving` looks for what is left
