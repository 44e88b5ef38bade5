"""The globes of the web page as a browser draws them: every label can be read, and none is under the toolbar."""
import re, subprocess, sys
from io import BytesIO
import numpy as np
import pytest
from PIL import Image
from browser import chromium, visit # noqa: F401, chromium is a fixture

pytest.importorskip('gradio', reason="the extra is not installed: pip install 'sphere_mnist[demo]'")


@pytest.fixture(scope='module')
def address(chromium, tmp_path_factory): # noqa: F811, no server where there is no browser
    "Of the page of the demo."
    process = subprocess.Popen([sys.executable, '-m', 'sphere_mnist', 'demo'], cwd=tmp_path_factory.mktemp('demo'), stdout=subprocess.PIPE, text=True)
    try: yield re.match(r'(http://127\.0\.0\.1:\d+) is the page', process.stdout.readline())[1]
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


# Takes from the scene whatever is no text, and the text too where nothing is wanted; the traces say what is what.
LEAVE = '''(place, text) => {
  const plot = document.querySelector(`${place} .js-plotly-plot`), scene = plot._fullLayout.scene._scene
  plot.querySelector('.modebar-container').style.visibility = 'hidden' // it comes and goes with the mouse
  const drawn = [...scene.glplot.objects], words = Object.values(scene.traces).map(trace => trace.textMarkers).filter(Boolean)
  for (const object of drawn) if (!(text && words.includes(object))) scene.glplot.remove(object)
  scene.glplot.redraw()
  return words.length
}'''
DRAWN = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'


def seen(page, place):
    "What a globe looks like, in levels."
    page.evaluate(DRAWN)
    return np.array(Image.open(BytesIO(page.locator(f'{place} .js-plotly-plot').screenshot())).convert('L')).astype(int)


def boxes(page, place):
    "Left, top, right and bottom of each label, in pixels of the plot; those that touch are one."
    from scipy import ndimage
    assert page.evaluate(f'([a, b]) => ({LEAVE})(a, b)', [place, True]) == 1 # trace with labels
    words = seen(page, place)
    page.evaluate(f'([a, b]) => ({LEAVE})(a, b)', [place, False])
    ink = ndimage.binary_dilation(np.abs(words - seen(page, place)) > 40, np.ones((3, 3)))
    return [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ndimage.label(ink, np.ones((3, 3)))[0])]


def toolbar(page, place):
    "The box of the toolbar's buttons, in pixels of the plot."
    return page.evaluate('''place => {
      const plot = document.querySelector(`${place} .js-plotly-plot`), home = plot.getBoundingClientRect(), all = [...plot.querySelectorAll('.modebar-btn')].map(b => b.getBoundingClientRect())
      return [Math.min(...all.map(b => b.left)) - home.left, Math.min(...all.map(b => b.top)) - home.top, Math.max(...all.map(b => b.right)) - home.left, Math.max(...all.map(b => b.bottom)) - home.top]
    }''', place)


def apart(a, b): return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def of_the_page(page, address): page.wait_for_selector('#map canvas')
def with_a_digit(page, address):
    page.wait_for_selector('#map canvas')
    page.get_by_role('button', name='Take a handwritten digit at random').click()
    page.wait_for_selector('#neighbours img')
    page.wait_for_function("document.querySelector('#map .js-plotly-plot')?.data?.some(t => t.name == 'yours')")
def of_three_dimensions(page, address):
    page.get_by_role('tab', name='Globe').click()
    page.wait_for_selector('#small canvas')


GLOBES = dict(page=(of_the_page, '#map'), digit=(with_a_digit, '#map'), three=(of_three_dimensions, '#small'))


@pytest.mark.parametrize('width', [1280, 800, 390])
@pytest.mark.parametrize('globe', GLOBES)
def test_each_label_stands_alone(globe, width, chromium, address): # noqa: F811
    show, place = GLOBES[globe]
    with visit(chromium, address, width) as page:
        show(page, address)
        page.wait_for_function(f"document.querySelector('{place} .js-plotly-plot')?._fullLayout?.scene?._scene?.glplot?.objects.length > 10")
        bar, found = toolbar(page, place), boxes(page, place)
        assert len(found) == 10, found # ten clusters: two labels that merge are one box
        assert all(5 < right - left < 40 and 9 < bottom - top < 40 for left, top, right, bottom in found), found
        assert bar[2] - bar[0] > 60 and bar[3] - bar[1] > 15 # it is there
        assert not [box for box in found if not apart(box, bar)], (bar, found)
        size = page.locator(f'{place} .js-plotly-plot').bounding_box()
        assert all(left > 0 and top > 0 and right < size['width'] and bottom < size['height'] for left, top, right, bottom in found), (size, found) # nor cut off


def test_labels_that_merge_are_noticed(chromium, address): # noqa: F811
    "The view in which two labels are nearest to each other."
    from sphere_mnist.demo import on_screen, small_globe
    from sphere_mnist.sphere import uniform_sphere
    import torch
    words, = [trace for trace in small_globe()[0].data if trace.type == 'scatter3d' and trace.mode == 'text']
    labels, eyes = torch.tensor([words.x, words.y, words.z]).T.float(), uniform_sphere(2000, 3, torch.Generator().manual_seed(0))
    near = (torch.cdist(*[on_screen(labels, 3.7*eyes)]*2) + 9*torch.eye(len(labels))).amin((1, 2)).argmin()
    with visit(chromium, address) as page:
        of_three_dimensions(page, address)
        page.wait_for_function("document.querySelector('#small .js-plotly-plot')?._fullLayout?.scene?._scene?.glplot?.objects.length > 10")
        page.evaluate("eye => Plotly.relayout(document.querySelector('#small .js-plotly-plot'), {'scene.camera.eye': eye})", dict(zip('xyz', (1.6*eyes[near]).tolist())))
        assert len(boxes(page, '#small')) < 10
