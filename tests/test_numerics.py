"""Every loss at its corners: finite, with a finite gradient, in float32 and bfloat16; and its gradient against differences."""
from dataclasses import replace
import pytest
import torch
import torch.nn.functional as F
from sphere_mnist import centers, discover, elbo, gmvae, gumbel, losses, margins, mixem, neighbours, simclr, sphere
from sphere_mnist.systems import SYSTEMS, system_class
from sphere_mnist.data import exemplar_indices, load_images
from sphere_mnist.published import preset_stages
from sphere_mnist.spherical import Spherical
from sphere_mnist.training import Batch

N, D, K = 6, 4, 3
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def seeded(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def unit(*shape, seed=0): return F.normalize(seeded(*shape, seed=seed), dim=-1)
def axis(n=N, d=D, k=0): return F.one_hot(torch.full((n,), k), d).float()


# What codes can be: name -> (N, D). All of them are met: a network that starts from zero weights, one that collapsed, one that overflowed.
CODES = dict(
    random=seeded(N, D), zero=torch.zeros(N, D), one_zero=seeded(N, D)*(torch.arange(N) > 0)[:, None],
    coincident=seeded(1, D).expand(N, D), on_an_axis=axis(), opposite=axis()*torch.tensor([1., -1]*3)[:, None],
    tiny=seeded(N, D)*1e-30, huge=seeded(N, D)*1e6, a_pair=seeded(N, D).index_copy(0, torch.tensor([1]), seeded(N, D)[:1]))
UNIT = {name: sphere.project(v) for name, v in CODES.items() if name != 'huge'}
# What logits can be: (N, K). Dead clusters, one-hot and uniform assignments, extreme values.
LOGITS = dict(
    random=seeded(N, K), uniform=torch.zeros(N, K), one_hot=60*F.one_hot(LABELS, K).float(), one_cluster=60*axis(N, K),
    dead=seeded(N, K) - torch.tensor([0, 0, 1e4]), extreme=1e4*seeded(N, K), shifted=seeded(N, K) + 1e4, negative=seeded(N, K) - 1e4)
NOISE = dict(edge=torch.tensor([0., 1 - 2**-24, .5]).expand(N, K), random=torch.rand(N, K, generator=torch.Generator().manual_seed(1)))
MEANS = dict(random=seeded(2, N, D), zero=torch.zeros(2, N, D), far=100*seeded(2, N, D))
LOG_VARS = dict(zero=torch.zeros(2, N, D), bound=torch.full((2, N, D), 30.), narrow=torch.full((2, N, D), -30.))
VARIANCES = dict(one=torch.ones(N, D), least=torch.full((N, D), 1e-8), wide=torch.full((N, D), 1e6))
PIXELS = dict(black=torch.zeros(N, D), white=torch.ones(N, D), grey=torch.full((N, D), .5))


def pairs(*tables, seed=1): # every entry of the first with every entry of the others
    rows = [((), ())]
    for table in tables: rows = [((*names, k), (*values, v)) for names, values in rows for k, v in table.items()]
    return {'-'.join(names): values for names, values in rows}


def two(table): return {name: (v, v) for name, v in table.items()} | {f'{name}-random': (v, table['random']) for name, v in table.items()}
def one(table): return {name: (v,) for name, v in table.items()}
def beside(x, *factors): return x.unsqueeze(-2)*x.new_tensor(factors or (1, 0, -1))[:, None] # K multiples of each row
def decay(x):
    "The term of a module with one parameter."
    module = torch.nn.Module()
    module.parameters = lambda: [x]
    return simclr.weight_decay(module)


def of_spherical(term, e, e_warped):
    "A term of Spherical itself, with given codes in the place of its encoder's, and centres that stay."
    system, codes = Spherical((D,), K, D, 'mlp', warp='none', together=False), iter([e, e_warped, e]) # the last are those of the prototypes
    system.groups = system.found = LABELS
    system.encode, system.centers = lambda x: next(codes), lambda mode: UNIT['random'][::2].to(e)
    return system.terms(Batch(torch.zeros(N, D), torch.arange(N), (term,)), .5)[term]


both = two(UNIT)
margined = {f'{name}-{w}': (v, CODES[w]) for name, v in CODES.items() for w in ('random', 'zero', 'coincident')}
# term -> function of float tensors, its corners by name; the first, random one is that of the differences
TERMS = dict(
    project=(lambda x: sphere.project(x).square().sum(), one(CODES)),
    feature=(losses.feature_loss, both),
    reconstruction=(losses.reconstruction_loss, both),
    cluster=(lambda a, b, c: losses.cluster_loss(a, b, c[:K]), {k: (*v, v[0]) for k, v in both.items()}),
    contrast=(neighbours.contrast_loss, both),
    contrast_cold=(lambda a, b: neighbours.contrast_loss(a, b, .01), both),
    prototype=(lambda x: of_spherical('prototype', x, x), one(UNIT)),
    discovered=(lambda a, b: of_spherical('discovered', a, b), both),
    balance=(discover.balance_loss, one(LOGITS)),
    sharpness=(discover.sharpness_loss, one(LOGITS)),
    consistency=(discover.consistency_loss, two(LOGITS)),
    group_centers=(lambda x: centers.group_centers(x, LABELS, K).square()[:, 0].sum(), one(CODES)),
    bernoulli=(lambda x, p: elbo.bernoulli_nll(x, p).mean(), {f'{k}-{p}': (v[None], PIXELS[p]) for k, v in CODES.items() for p in PIXELS}),
    gaussian=(lambda m, v, y: elbo.gaussian_nll(m, v, y).mean(), {k: (m, v, m[0]) for k, (m, v) in pairs(MEANS, LOG_VARS).items()}),
    gaussian_one=(lambda a, b: elbo.gaussian_nll(a, 0., b).mean(), two(CODES)),
    gaussian_kl=(lambda m, v: elbo.gaussian_kl(m, v).mean(), pairs(MEANS, LOG_VARS)),
    gaussian_kl_prior=(lambda m, v: elbo.gaussian_kl(m, v, m.flip(0) + 1, -v/2).mean(), pairs(MEANS, LOG_VARS)),
    conditional=(lambda l, m, v: gmvae.conditional_loss(l.softmax(-1), m[0], v[0], beside(m), beside(v, 1, 1, 1)), pairs(LOGITS, MEANS, LOG_VARS)),
    violation=(lambda m, v: discover.sharpness_loss(elbo.log_density(m[:, :, None], beside(m), beside(v, 1, 1, 1)).flatten(0, 1)), pairs(MEANS, LOG_VARS)),
    uniform_kl=(lambda l: elbo.uniform_kl(l).mean(), one(LOGITS)),
    free_bits=(lambda l: gmvae.free_bits_loss(elbo.uniform_kl(l)), one(LOGITS)),
    bounded=(lambda v: gmvae.bounded(v, 4.).sum() + gmvae.bounded(v).sum(), {k: (s*seeded(N, D),) for k, s in dict(random=1, extreme=1e6).items()}),
    gumbel=(lambda l, u: gumbel.gumbel_softmax(l, gumbel.gumbel_noise(u), 1.)[:, 0].sum(), pairs(LOGITS, NOISE)),
    gumbel_cold=(lambda l, u: gumbel.gumbel_softmax(l, gumbel.gumbel_noise(u), .05)[:, 0].sum(), pairs(LOGITS, NOISE)),
    gumbel_hard=(lambda l, u: gumbel.gumbel_softmax(l, gumbel.gumbel_noise(u), .5, hard=True)[:, 0].sum(), pairs(LOGITS, NOISE)),
    log_density=(lambda z, m, v: elbo.log_density(z, m, v.log()).mean(), {k: (*v, w) for (k, v), w in zip(two(UNIT).items(), [*VARIANCES.values()]*9)}),
    normal_kl=(lambda a, b, v, w: elbo.gaussian_kl(a, v.log(), b, w.log()).mean(), pairs(dict(random=seeded(N, D), zero=torch.zeros(N, D)), dict(other=seeded(N, D, seed=1)), VARIANCES, VARIANCES)),
    mix=(lambda l, x: mixem.mix(l, beside(x))[:, 0].sum(), pairs(LOGITS, CODES)),
    pimax=(mixem.pimax_loss, one(LOGITS)),
    decay=(decay, one(CODES)),
)
for name, dummies, component in (('', False, LABELS), ('_dummies', True, LABELS), ('_dead', False, LABELS.clamp_max(1)),
                                 ('_one', False, LABELS*0), ('_dummies_one', True, LABELS*0)):
    for term, loss in dict(pull=mixem.pull_loss, push=mixem.push_loss).items():
        TERMS[term + name] = (lambda z, loss=loss, c=component, d=dummies: loss(z, c, K, d)), one(CODES)
for name, labels in dict(pairs=LABELS, one_class=LABELS*0, singles=torch.arange(N)).items():
    n = int(labels.max()) + 1
    weighted = {k: (x, F.pad(w, (0, 0, 0, max(0, n - len(w))))[:n]) for k, (x, w) in margined.items()}
    for mining in margins.MINING:
        TERMS[f'triplet_{mining}_{name}'] = (lambda x, y=labels, m=mining: margins.triplet_loss(x, y, .2, m)), one(CODES)
    TERMS |= {
        f'intra_{name}': ((lambda x, y=labels, n=n: margins.intra_loss(x, y, n)), one(CODES)),
        f'contrastive_{name}': ((lambda x, y=labels: margins.contrastive_loss(x, y)), one(CODES)),
        f'supcon_{name}': ((lambda x, y=labels: margins.supcon_loss(x, y)), one(CODES)),
        f'center_{name}': ((lambda x, w, y=labels: margins.center_loss(x, y, w)), weighted)}
    if n > 1: TERMS |= {
        f'cosface_{name}': ((lambda x, w, y=labels: margins.cosface_loss(x, y, w)), weighted),
        f'arcface_{name}': ((lambda x, w, y=labels: margins.arcface_loss(x, y, w)), weighted),
        f'a_softmax_{name}': ((lambda x, w, y=labels: margins.a_softmax_loss(x, y, w)), weighted),
        f'a_softmax_annealed_{name}': ((lambda x, w, y=labels: margins.a_softmax_loss(x, y, w, 4, 1000.)), weighted)}


# A network that runs in bfloat16 hands float32 to its losses, and its gradient back in bfloat16; most losses take bfloat16 itself too.
KINDS = dict(float32=(torch.float32, False), network=(torch.bfloat16, True), bfloat16=(torch.bfloat16, False))
NO_BFLOAT16 = ('cluster', 'triplet', 'contrastive', 'gumbel', 'decay') # chord (torch.cdist) has no such kernel; draws and decay are float32
FIXED = dict(cluster=[2], gumbel=[1], gumbel_cold=[1], gumbel_hard=[1]) # inputs that get no gradient
OWN = {'gumbel_hard': 'its gradient is that of the soft draw', 'consistency': 'its targets get no gradient', 'decay': 'it is summed in float32'}
CASES = [(kind, term) for kind in KINDS for term in TERMS if kind != 'bfloat16' or not term.startswith(NO_BFLOAT16)]


@pytest.mark.parametrize('kind, term', CASES)
def test_finite_at_the_corners(kind, term):
    function, corners = TERMS[term]
    dtype, widened = KINDS[kind]
    bad = []
    for name, values in corners.items():
        inputs = [v.to(dtype).clone().requires_grad_(i not in FIXED.get(term, ())) for i, v in enumerate(values)]
        value = function(*(x.float() if widened else x for x in inputs))
        assert value.shape == ()
        if value.requires_grad: value.backward()
        if not value.isfinite(): bad.append(f'{name}: {value.item()}')
        bad += [f'{name}: gradient of input {i}' for i, x in enumerate(inputs) if x.grad is not None and not x.grad.isfinite().all()]
    assert not bad


def smooth(term):
    "Random inputs of the shapes that a term takes, away from its kinks."
    values = [seeded(*v.shape, seed=5 + i).double() for i, v in enumerate(next(iter(TERMS[term][1].values())))]
    if term in ('log_density', 'normal_kl'): values[-2:] = [v.exp() for v in values[-2:]] if term == 'normal_kl' else [values[1], values[2].exp()]
    if term.startswith('gumbel') and len(values[0]) == N and values[-1].shape[1] == K: values[1] = values[1].sigmoid()
    return [v.requires_grad_(i not in FIXED.get(term, ())) for i, v in enumerate(values)]


@pytest.mark.parametrize('term', [t for t in TERMS if t not in OWN])
def test_gradient_against_differences(term):
    assert torch.autograd.gradcheck(TERMS[term][0], smooth(term), eps=1e-6, atol=1e-5)


def gradient(function, x): return torch.autograd.grad(function(x), x)[0]


def test_gradients_that_are_not_that_of_the_value():
    x, y, w = (seeded(N, K, seed=i).double().requires_grad_() for i in range(3))
    soft, hard = (gradient(lambda x: (gumbel.gumbel_softmax(x, y, .5, hard)*w).sum(), x) for hard in (False, True))
    torch.testing.assert_close(hard, soft)
    expected = (x.softmax(1) - (y/.5).softmax(1))/(2*N)
    torch.testing.assert_close(gradient(lambda x: discover.consistency_loss(x, y), x), expected)
    torch.testing.assert_close(gradient(decay, x), x)


def test_centres_get_no_gradient_of_the_exemplars():
    codes, system = sphere.project(seeded(3*N, D)).double().requires_grad_(), Spherical((D,), K, D, 'mlp', warp='none')
    system.prototypes, system.groups, system.encode = torch.zeros(N, D), LABELS, lambda x: codes # of two views and the prototypes
    value = system.terms(Batch(torch.zeros(N, D), torch.arange(N), ('prototype',)), .5)['prototype']
    prototypes = codes.detach()[2*N:]
    means = centers.group_centers(prototypes, LABELS, K)
    expected = system.kappa*((system.kappa*prototypes @ means.T).softmax(1) - F.one_hot(LABELS, K)) @ means/N # as if they were constants
    torch.testing.assert_close(torch.autograd.grad(value, codes)[0], torch.cat([torch.zeros(2*N, D), expected]))


@pytest.fixture(scope='module')
def pictures():
    "Digits and what a folder can hold instead of them."
    digits = load_images('digits')[range(40)]
    same = digits[[0]*40]
    return dict(digits=digits, constant=replace(digits, pixels=torch.full_like(digits.pixels, 9)), the_same=replace(same, labels=digits.labels))


@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('name', SYSTEMS)
def test_every_term_of_a_system(name, precision, pictures):
    made = system_class(name)
    for what, images in pictures.items():
        for preset in list(made.presets)[:1] if name != 'margins' else made.presets:
            options = dict(encoder='small') if name in ('simclr', 'mixem') else {}
            stages = preset_stages(made, preset, images, images[exemplar_indices(images.labels)], batch_size=16, **options)
            for stage in stages:
                system = stage.system.train()
                system.precision = precision
                stage.apply_settings()
                terms = [t for t in stage.weights if t != 'discovered']
                system.zero_grad()
                values = system(Batch(images.pixels[:20], torch.arange(20), tuple(terms), step=1), .5)
                assert all(v.isfinite() and v.dtype == torch.float32 for v in values.values()), (what, preset, values)
                sum(values.values()).backward()
                bad = [k for k, p in system.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
                assert not bad, (what, preset)
