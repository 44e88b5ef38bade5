"Figures of runs: names that look like mathematics, runs without labels, and a phone's window."
import json
import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from sphere_mnist import cli
from sphere_mnist.curves import curves_figure, drift_figure
from sphere_mnist.figures import confusion_figure, gallery_figure, png, tsne_figure
from sphere_mnist.mixtures import usage_figure

generator = np.random.default_rng(0)
images, codes = generator.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), generator.normal(size=(40, 3))
labels, names = np.arange(40) % 3, [0, 1, 2]
FIGURES = dict(
    gallery=lambda classes: gallery_figure(images, np.eye(3)[labels], codes, names=names, classes=classes),
    confusion=lambda classes: confusion_figure([[5, 3, 0], [1, 9, 0], [0, 0, 9]], classes),
    tsne=lambda classes: tsne_figure(codes, images, labels, classes),
    tsne_by_cluster=lambda classes: tsne_figure(codes, images, None, classes, clusters=labels, names=names),
    drift=lambda classes: drift_figure(generator.permuted(np.ones((4, 3, 2)).cumsum(0), axis=1), names, classes),
    usage=lambda classes: usage_figure([dict(epoch=e, usage=[.3, .3, .4]) for e in (1, 2)], names, classes))


@pytest.mark.parametrize('name', ['price_$10_to_$20', 'US$_AU$', r'$\alpha$', r'\$5$x^2$'])
@pytest.mark.parametrize('kind', FIGURES)
def test_a_dollar_in_a_name_is_a_dollar(kind, name):
    figure = FIGURES[kind]((name, '_hidden', 'c'))
    drawn = png(figure)
    with matplotlib.rc_context({'text.parse_math': False}): assert drawn == png(FIGURES[kind]((name, '_hidden', 'c')))
    assert any(name in text.get_text() for text in figure.findobj(Text))


def test_a_term_with_a_dollar_beside_a_logarithmic_axis():
    figure = curves_figure([dict(epoch=e, loss=.1**e, terms={'US$_AU$': .1**e}) for e in (1, 2)])
    png(figure)
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ['loss', 'US$_AU$']
    assert any('mathdefault' in t.get_text() and t.get_parse_math() for t in figure.axes[0].get_yticklabels()) # powers of ten


def test_a_phone_shows_curves_that_can_be_read():
    numbers = dict(acc=.5, nmi=.5, ari=.4, largest=.2, clusters_used=10, entropy=2.3, separation=.3, validation=1.)
    figure = curves_figure([dict(epoch=e, stage=e // 3, loss=1/e, terms=dict(feature=1/e, reconstruction=2/e, cluster=.1)) | numbers for e in (1, 2, 3)])
    png(figure)
    width = figure.bbox.width
    assert width >= 600
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    texts = [*(t for legend in legends for t in legend.get_texts()), *(t for ax in figure.axes for t in (ax._left_title, ax.xaxis.label)),
             *(t for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for t in axis.get_ticklabels(which='both'))]
    assert len(legends) == 2 and len(texts) > 50
    for text in texts:
        assert text.get_fontsize()*figure.dpi/72*345/width > 9 # pixels in a window of 390, of which a page's margins take 45
    boxes = [ax.get_tightbbox().shrunk(.99, .99) for ax in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for legend in legends: assert not legend.get_window_extent().overlaps(legend.axes.get_window_extent())


@pytest.fixture(scope='module', params=[True, False], ids=['classes', 'no labels'])
def run(request, tmp_path_factory):
    "A run of two epochs on two classes with dollars in their names, or on the same pictures without labels."
    top, lines = tmp_path_factory.mktemp('figures'), np.random.default_rng(0)
    for name, place in (('price_$10_to_$20', 2), ('US$_AU$', 8)):
        for i in range(12):
            picture = lines.integers(0, 60, (12, 12), dtype=np.uint8)
            picture[:, place:place + 3] += 150
            path = top/'data'/(f'{name}/{i}.png' if request.param else f'{place}-{i}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    clusters = [] if request.param else ['--clusters', '2']
    assert cli.main(['cluster', '--data', str(top/'data'), '--preset', 'published', '--epochs', '2', '--quiet', *clusters, '--out', str(top/'run')]) == 0
    return request.param, top/'run'


def test_a_run_has_its_figures(run):
    labelled, folder = run
    captions = json.loads((folder/'figures'/'captions.json').read_text())
    assert {'curves', 'tsne', 'clusters'} <= captions.keys() and ('confusion' in captions) == labelled
    assert ('share the class' if labelled else 'share the cluster') in captions['tsne']
    for file in (folder/'figures').glob('*.png'): Image.open(file).load()
