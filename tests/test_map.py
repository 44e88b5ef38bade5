"""The map of a run in a real browser: pictures are chosen with the mouse, corrected with keys, and what is saved is read."""
import csv
import numpy as np
import pytest
import torch
from sphere_mnist import picture_map
from sphere_mnist.data import load_images
from sphere_mnist.evaluation import assign_all
from sphere_mnist.predict import shipped_model
from sphere_mnist.runs import answers
from browser import chromium, keep, no_wider_than_the_window, visit # noqa: F401, chromium is a fixture

ODD = 'with, comma and "quotes" <b>.png'


@pytest.fixture(scope='module')
def made():
    "Digits in two heaps, 200 to the left and 300 to the right, and what is said of them."
    model, digits = shipped_model(), load_images('mnist5k', 'test')[:500]
    names = [ODD, *(f'digits/{i:03d}.png' for i in range(1, 500))]
    generator = np.random.default_rng(0)
    places = np.concatenate([generator.integers(0, 3000, (200, 2)), generator.integers(5000, 9000, (300, 2))])
    rows = answers(names, assign_all(model, digits), model)
    return rows, picture_map.map_data(model, digits, rows, places, {names[3]: 'dark'})


@pytest.fixture(scope='module')
def file(made, tmp_path_factory):
    path = tmp_path_factory.mktemp('map')/'map.html'
    path.write_text(picture_map.map_page(made[1], 'Digits'), encoding='utf-8')
    return path


def drawn(page): page.wait_for_function("plot?.get('isPointsDrawn')")


def middle_of(page, *pictures):
    "Where pictures are in the window."
    page.wait_for_timeout(100)
    box = page.locator('#points').bounding_box()
    return [(x + box['x'], y + box['y']) for x, y in page.evaluate('all => all.map(i => plot.getScreenPosition(i))', [*pictures])]


def lasso(page, corners):
    page.keyboard.down('Shift')
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]: page.mouse.move(*corner, steps=25)
    page.mouse.up()
    page.keyboard.up('Shift')


def line(page, name): return page.locator(f'#legend button[data-name="{name}"]')
def said(page, words): page.locator('#said', has_text=words).wait_for()


def answer(page, text):
    page.locator('#answer').fill(text)
    page.keyboard.press('Enter')


def choose(page, cluster): # by its number: Playwright takes names for values too
    page.locator('#answer-list').evaluate('(list, value) => list.value = value', str(cluster))


def saved(page, place):
    with page.expect_download() as download: page.get_by_role('button', name='Save corrections').click()
    assert download.value.suggested_filename == 'corrections.csv'
    download.value.save_as(place)
    with open(place, newline='', encoding='utf-8') as f: return [*csv.reader(f)]


def test_lasso_name_save_and_go_on(chromium, file, made, tmp_path):
    rows, data = made
    first, second = (max(range(10), key=lambda k: data['cluster'][part].count(k)) for part in (slice(200), slice(200, None)))
    with visit(chromium, file.as_uri(), wait=30) as page:
        drawn(page)
        at = np.array(middle_of(page, *range(500)))
        (left, top), (right, bottom) = at[:200].min(0) - 15, at[:200].max(0) + 15
        lasso(page, [(left, top), (right, top), (right, bottom), (left, bottom)])
        said(page, '200 pictures chosen')
        page.keyboard.press('n')
        answer(page, 'no digit, "as such"')
        said(page, 'Name: 200 pictures. U takes it back.')
        keep(page, 'map', tmp_path)

        line(page, data['clusters'][first]).click() # a whole cluster
        page.keyboard.press('n')
        answer(page, 'mine')
        line(page, 'mine').wait_for()
        page.keyboard.press('m')
        choose(page, second)
        page.keyboard.press('Enter')
        said(page, f'Merge: cluster:{first}, merge, cluster:{second}')
        assert page.evaluate('state.cluster').count(first) == 0
        page.keyboard.press('u')
        assert page.evaluate('state.cluster') == data['cluster']
        line(page, 'mine').click()
        page.get_by_role('button', name='Split').click()
        page.get_by_text('mine (to be split)').wait_for()

        page.locator('#search').fill('COMMA')
        said(page, ODD)
        page.get_by_role('button', name='Move').click()
        choose(page, second)
        page.get_by_role('button', name='OK').click()
        said(page, f'Move: {ODD}, move, {second}')
        page.keyboard.press('Escape')
        page.mouse.click(*middle_of(page, 321)[0])
        page.wait_for_function('chosen.pictures.length == 1')
        one = page.evaluate('data.pictures[chosen.pictures[0]]')
        page.keyboard.press('o')
        line(page, 'belongs to none').wait_for()

        named = [row[0] for row in rows[:200]]
        wanted = [['picture', 'action', 'value'], *([name, 'label', 'no digit, "as such"'] for name in named), [f'cluster:{first}', 'name', 'mine'],
                  [f'cluster:{first}', 'split', '2'], [ODD, 'move', str(second)], [one, 'stranger', '']]
        found = saved(page, tmp_path/'corrections.csv')
        assert sorted(found[1:201]) == sorted(wanted[1:201]) and found[:1] + found[201:] == wanted[:1] + wanted[201:]

        page.reload() # everything is there again
        drawn(page)
        said(page, '204 corrections of last time are restored')
        assert saved(page, tmp_path/'again.csv') == found
        page.keyboard.press('Control+z')
        said(page, 'Taken back: stranger')
        for _ in range(4): page.keyboard.press('u')
        assert page.evaluate('steps') == [] and page.locator('#save').is_disabled()
        page.locator('#open').set_input_files(tmp_path/'corrections.csv')
        said(page, 'corrections.csv is applied.')
        assert saved(page, tmp_path/'third.csv') == found


def test_a_table_of_something_else_is_refused(chromium, file, tmp_path):
    (tmp_path/'clusters.csv').write_text('picture,label,confidence,cluster\na,b,1,2\n')
    with visit(chromium, file.as_uri(), wait=30) as page:
        drawn(page)
        page.locator('#open').set_input_files(tmp_path/'clusters.csv')
        said(page, 'clusters.csv cannot be read: it is no table of picture, action and value.')
        assert page.evaluate('steps') == []


def test_colours_hover_and_thumbnails(chromium, file, made, tmp_path):
    with visit(chromium, file.as_uri(), wait=30) as page:
        drawn(page)
        for colour, name in (('label', '7'), ('confidence', '0.99 and above'), ('audit', 'dark'), ('cluster', '7')):
            page.locator('#colour').select_option(colour)
            line(page, name).wait_for()
        page.mouse.move(*middle_of(page, 3)[0])
        page.locator('#hover', has_text='digits/').wait_for()
        page.locator('#search').fill('digits/003')
        page.keyboard.press('Enter')
        page.wait_for_function("plot.get('pointsInView').length < 400")
        page.wait_for_function("brush.getImageData(...plot.getScreenPosition(3).map(v => v*devicePixelRatio), 1, 1).data[3] == 255")
        keep(page, 'map-near', tmp_path)


def test_a_phone_looks(chromium, file, tmp_path):
    with visit(chromium, file.as_uri(), width=390, height=800) as page:
        drawn(page)
        assert no_wider_than_the_window(page) and not page.locator('#do-n').is_visible()
        box, touch = page.locator('#points').bounding_box(), page.context.new_cdp_session(page)
        def fingers(kind, *at): touch.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=[dict(x=box['x'] + x, y=box['y'] + y) for x, y in at]))
        before = np.array(middle_of(page, 0, 1))
        fingers('touchStart', (100, 200))
        fingers('touchMove', (140, 230))
        fingers('touchEnd')
        moved = np.array(middle_of(page, 0, 1))
        assert np.allclose(moved - before, [40, 30], atol=2)
        fingers('touchStart', (100, 200), (200, 200))
        fingers('touchMove', (50, 200), (250, 200))
        fingers('touchEnd')
        zoomed = np.array(middle_of(page, 0, 1))
        assert np.allclose(zoomed[1] - zoomed[0], 2*(moved[1] - moved[0]), atol=2)
        keep(page, 'map-phone', tmp_path)


def test_ten_thousand_photographs(chromium, tmp_path):
    "As large as thumbnails may become, and ready for the next frame at every turn of the wheel."
    n, generator = 10_000, torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (n, 3, 6, 6), dtype=torch.uint8, generator=generator)
    photos = torch.nn.functional.interpolate(coarse, (64, 64), mode='bilinear').add(torch.randint(0, 20, (n, 1, 64, 64), dtype=torch.uint8, generator=generator))
    sheets, side = picture_map.thumbnails(photos)
    rows = [[f'photographs/holiday-{i:06d}.jpeg', '', '0.9', i % 12] for i in range(n)]
    model, digits = shipped_model(), load_images('mnist5k', 'test')
    data = picture_map.map_data(model, digits[torch.arange(n) % 1000], rows, np.random.default_rng(0).integers(0, 10_000, (n, 2)))
    data |= dict(sheets=[picture_map.base64.b64encode(s).decode() for s in sheets], side=side, clusters=['']*12, colors=data['colors']*2)
    (tmp_path/'map.html').write_text(picture_map.map_page(data, 'Photographs'))
    assert 24 <= side and 4e6 < (tmp_path/'map.html').stat().st_size < 12e6
    with visit(chromium, (tmp_path/'map.html').as_uri()) as page:
        drawn(page)
        page.wait_for_function('sheets.filter(Boolean).length == data.sheets.length')
        page.mouse.move(500, 400)
        costs = []
        for turn in range(12):
            page.mouse.wheel(0, -150)
            page.wait_for_timeout(50)
            costs.append(page.evaluate('() => { const began = performance.now(); thumbnails(); return performance.now() - began }'))
        keep(page, 'map-large', tmp_path)
        print(f'{side} pixels; milliseconds from a turn of the wheel to its pictures:', [round(c, 1) for c in costs])
        assert np.median(costs) < 16 # of the time between two frames
