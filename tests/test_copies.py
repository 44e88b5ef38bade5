"""Pictures that are there many times: copies are no neighbours, and no cluster is empty or mixed because of them."""
import warnings
import numpy as np
import pytest
import torch
from sphere_mnist.data import Images, load_images
from sphere_mnist.discover import discover_images, without_crowds
from sphere_mnist.estimator import GMVAEClusterer, GumbelClusterer, MixEMClusterer, SphericalClusterer
from sphere_mnist.evaluation import matched_acc
from sphere_mnist.k_and_balance import choose_k
from sphere_mnist.training import counted

COPIES = 15


def crowd(kind='digits', order=False, copies=COPIES):
    "Five pictures each of four digits, or five points around each of four, many times; and what they are."
    if kind == 'digits':
        digits = load_images('digits')
        rows = torch.cat([(digits.labels == k).nonzero()[:5, 0] for k in (0, 1, 4, 6)])
        x, y = digits.pixels[rows].numpy(), digits.labels[rows].numpy()
    else:
        y = np.repeat(np.arange(4), 5)
        x = np.eye(4, 6)[y]*3 + np.random.default_rng(0).normal(size=(20, 6))*.3
    x, y = np.repeat(x, copies, 0), np.repeat(y, copies)
    order = np.random.default_rng(1).permutation(len(x)) if order else np.arange(len(x))
    return x[order], torch.from_numpy(y[order])


@pytest.mark.parametrize('clusterer', [GMVAEClusterer, SphericalClusterer, GumbelClusterer, MixEMClusterer])
def test_twenty_pictures_fifteen_times(clusterer):
    X, y = crowd()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = torch.from_numpy(clusterer(n_clusters=4, epochs=12, random_state=0, device='cpu', precision='float32').fit(X).labels_)
    assert found.bincount(minlength=4).tolist() == [75]*4 and matched_acc(found, y) == 1
    assert all(len(found[i:i + COPIES].unique()) == 1 for i in range(0, 300, COPIES))


@pytest.mark.parametrize('kind, order, copies', [('digits', False, 15), ('digits', True, 15), ('points', False, 30), ('points', True, 200)])
def test_the_graph_sees_pictures_and_not_their_copies(kind, order, copies):
    X, y = crowd(kind, order, copies)
    images = load_images(X)
    for n in (10_000, 250): # all of them, or a part
        found = discover_images(lambda x: x.flatten(1) + 1, images, 4, counted(0), n=n, pixels=False).labels
        assert matched_acc(found, y) == 1


def test_all_copies_go_where_the_first_goes():
    X, y = crowd(order=True)
    labels = discover_images(lambda x: x.flatten(1) + 1, load_images(X), 10, counted(0), pixels=False).labels
    for row in np.unique(X.reshape(300, -1), axis=0): assert len(labels[torch.from_numpy((X.reshape(300, -1) == row).all(1))].unique()) == 1


@pytest.mark.parametrize('k', [2, 20, 40, 90, 300])
def test_as_many_clusters_as_are_wanted(k):
    X, _ = crowd()
    assert len(discover_images(lambda x: x.flatten(1) + 1, load_images(X), k, counted(0), pixels=False).labels.unique()) == k


@pytest.mark.parametrize('rows', [torch.arange(40)[:, None], torch.arange(40).repeat(4)[:, None], torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)])
def test_a_few_copies_change_nothing(rows): assert without_crowds(rows, 10).tolist() == [*range(len(rows))]


@pytest.mark.parametrize('copies', [1, 15, 40])
def test_the_number_of_clusters_does_not_depend_on_copies(copies):
    X, _ = crowd('points', True, copies)
    assert choose_k(torch.from_numpy(X).float(), range(2, 8)).k == 4


def test_one_picture_alone():
    images = Images(torch.full((300, 1, 8, 8), 7, dtype=torch.uint8))
    assert len(discover_images(lambda x: x.flatten(1) + 2, images, 3, counted(0), pixels=False).labels.unique()) == 3
