"""The web page in a real browser: it is drawn on with the mouse, and its answers are read."""
import os, re, signal, subprocess, sys, time
from io import BytesIO
from pathlib import Path
import numpy as np
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


@pytest.fixture(scope='module')
def server(chromium, tmp_path_factory): # no server where there is no browser
    "The address of the page; Ctrl-C ends it as a person would, without a complaint."
    folder = tmp_path_factory.mktemp('server')
    env = dict(os.environ, PYTHONPATH=str(root), GRADIO_TEMP_DIR=str(folder/'gradio'), OMP_NUM_THREADS='1')
    with open(folder/'stderr', 'w') as err:
        process = subprocess.Popen([sys.executable, '-c', GUARD], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        line = process.stdout.readline() # ends with the process, at the latest
        assert (said := re.match(r'(http://127\.0\.0\.1:\d+) is the page', line)), (line, (folder/'stderr').read_text())
        yield said[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (folder/'stderr').read_text() == ''
    finally:
        process.kill()
        process.stdout.close()


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
    page.wait_for_selector('#company img')
    return page.locator('#answer').inner_text()


def test_draw_a_digit(page, tmp_path):
    draw(page, SEVEN)
    said = answer(page)
    assert re.search('a 7', said) and re.search(r'\d+% confident. It lies \d+° from the centre of cluster 7', said), said
    assert page.locator('#company img').count() == 2 + 3 + 4 + 6
    assert all(page.locator('#company img').evaluate_all('images => images.map(i => i.alt.length > 0 && i.naturalWidth == 28)'))
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
        page.locator('#photo').get_by_label('Remove Image').click()
        page.get_by_role('heading', name='Draw a digit').wait_for()
        page.locator('#photo input[type=file]').first.set_input_files(tmp_path/'blank.png')
        page.get_by_role('heading', name='Nothing to see yet').wait_for()
        page.get_by_role('button', name='Take a handwritten digit at random').click()
        assert 'confident' in answer(page)


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['demo']) == 2
    assert capsys.readouterr().err == "sphere_mnist: the web page needs gradio, which is not installed: pip install 'sphere_mnist[demo]'\n"
