"""The system's Chromium, without a window, for the tests of what a browser shows."""
import os, shutil
from contextlib import contextmanager
from pathlib import Path
import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync '
         '--use-angle=swiftshader --enable-unsafe-swiftshader --use-fake-ui-for-media-stream --use-fake-device-for-media-stream'
         ).split() # WebGL without a graphics card, a camera that shows a test pattern, and no network of its own


@pytest.fixture(scope='module')
def chromium():
    "A browser; Playwright brings none along here."
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None: pytest.skip('no browser is installed: apt-get install chromium')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser, url, width=1280, height=900, wait=120):
    "A page and, once it is left, nothing to complain of: no error, no failed request, nothing asked of another machine."
    page, troubles = browser.new_page(viewport=dict(width=width, height=height)), []
    page.set_default_timeout(1000*wait)
    home = ('file:', 'data:', 'blob:', 'about:', 'http://127.0.0.1:', 'ws://127.0.0.1:')
    page.on('console', lambda m: m.type == 'error' and troubles.append(f'console: {m.text}'))
    page.on('pageerror', lambda e: troubles.append(f'error: {e}'))
    page.on('requestfailed', lambda r: 'ERR_ABORTED' in (r.failure or '') or troubles.append(f'failed: {r.url}'))
    page.on('response', lambda r: r.status >= 400 and troubles.append(f'{r.status}: {r.url}'))
    page.on('request', lambda r: r.url.startswith(home) or troubles.append(f'elsewhere: {r.url}'))
    page.goto(url)
    yield page
    page.close()
    assert not troubles, troubles


def keep(page, name, folder):
    "A screenshot of the page, with more in it than one colour; $SPHERE_MNIST_SCREENSHOTS keeps it."
    from PIL import Image
    folder = Path(os.environ.get('SPHERE_MNIST_SCREENSHOTS') or folder)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder/f'{name}.png', full_page=True)
    with Image.open(folder/f'{name}.png') as picture:
        assert len(picture.convert('RGB').getcolors(2**24)) > 100
        assert picture.width == page.viewport_size['width'], 'the page is wider than the window'


def no_wider_than_the_window(page): return page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
