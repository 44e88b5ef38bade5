"""The door of a page that this machine serves, before a real server: what does not come from the page itself gets nowhere."""
import socket, threading, time
import pytest
from sphere_mnist.door import Door, loopback

uvicorn = pytest.importorskip('uvicorn', reason="the extra is not installed: pip install 'sphere_mnist[demo]'")


@pytest.fixture(scope='module')
def behind():
    "The port of an application behind a door, and how many bytes have come through."
    came = []
    async def app(scope, receive, send):
        if scope['type'] != 'http': return
        came.append(0)
        while (message := await receive())['type'] == 'http.request':
            came[-1] += len(message['body'])
            if not message['more_body']: break
        await send(dict(type='http.response.start', status=200, headers=[(b'content-length', b'0')]))
        await send(dict(type='http.response.body', body=b''))
    with loopback() as bound:
        server = uvicorn.Server(uvicorn.Config(Door(app, {'/': 1000, '/pictures': 50_000}), log_level='critical', lifespan='off'))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started: time.sleep(.01)
        yield bound.getsockname()[1], came
        server.should_exit = True
        thread.join(30)


def asked(port, request, headers, body=b''):
    "Status of the answer to bytes as they are."
    with socket.create_connection(('127.0.0.1', port), timeout=30) as connection:
        lines = [f'{request} HTTP/1.1', *(f'{name}: {value}'.replace('PORT', str(port)) for name, value in headers)]
        try: connection.sendall('\r\n'.join([*lines, '', '']).encode() + body)
        except (BrokenPipeError, ConnectionResetError): pass # it has been answered, and the rest is not wanted
        return int(connection.recv(100).split()[1])


HOST, CHUNKS = ('Host', '127.0.0.1:PORT'), b'10000\r\n' + b'x'*65_536 + b'\r\n'
REFUSED = dict( # request, headers, body, status
    chunks=('POST /pictures', [HOST, ('Transfer-Encoding', 'chunked')], CHUNKS*3 + b'0\r\n\r\n', 411),
    a_length_and_chunks=('POST /pictures', [HOST, ('Content-Length', '5'), ('Transfer-Encoding', 'chunked')], CHUNKS*3 + b'0\r\n\r\n', 411),
    chunks_and_a_length=('POST /pictures', [HOST, ('Transfer-Encoding', 'chunked'), ('Content-Length', '5')], CHUNKS*3 + b'0\r\n\r\n', 411),
    chunks_to_read=('GET /', [HOST, ('Transfer-Encoding', 'chunked')], CHUNKS*3 + b'0\r\n\r\n', 411),
    two_lengths=('POST /pictures', [HOST, ('Content-Length', '5'), ('Content-Length', '500000')], b'x'*500, 400),
    a_long_length=('POST /pictures', [HOST, ('Content-Length', '50001')], b'', 413),
    a_length_of_many_digits=('POST /pictures', [HOST, ('Content-Length', '9'*5000)], b'', 400),
    two_hosts=('GET /', [HOST, ('Host', 'rebound.example')], b'', 400),
    another_host=('GET /', [('Host', 'rebound.example:PORT')], b'', 421),
    another_port=('POST /pictures', [HOST, ('Origin', 'http://127.0.0.1:1'), ('Content-Length', '0')], b'', 403),
    another_name=('POST /pictures', [HOST, ('Origin', 'http://localhost:PORT'), ('Content-Length', '0')], b'', 403),
    no_port=('POST /pictures', [HOST, ('Origin', 'http://127.0.0.1'), ('Content-Length', '0')], b'', 403),
    a_sandbox=('POST /pictures', [HOST, ('Origin', 'null'), ('Content-Length', '0')], b'', 403),
    a_picture_elsewhere=('GET /', [HOST, ('Sec-Fetch-Site', 'cross-site'), ('Sec-Fetch-Dest', 'image')], b'', 403),
    a_frame_elsewhere=('GET /', [HOST, ('Sec-Fetch-Site', 'cross-site'), ('Sec-Fetch-Dest', 'iframe')], b'', 403),
    a_script_of_another_port=('GET /', [HOST, ('Sec-Fetch-Site', 'same-site'), ('Sec-Fetch-Dest', 'script')], b'', 403),
    a_form_elsewhere=('POST /pictures', [HOST, ('Sec-Fetch-Site', 'cross-site'), ('Sec-Fetch-Dest', 'document'), ('Content-Length', '0')], b'', 403),
    a_path_of_its_own=('GET /gradio_api/file=/etc/hostname', [HOST], b'', 404))


@pytest.mark.parametrize('case', REFUSED)
def test_nothing_comes_through(case, behind):
    (port, came), (request, headers, body, status) = behind, REFUSED[case]
    before = len(came)
    assert asked(port, request, headers, body) == status and len(came) == before


@pytest.mark.parametrize('request_, headers, body', [
    ('GET /', [HOST], b''), ('GET /?x=1', [('Host', 'localhost:PORT'), ('Sec-Fetch-Site', 'none'), ('Sec-Fetch-Dest', 'document')], b''),
    ('GET /', [HOST, ('Sec-Fetch-Site', 'cross-site'), ('Sec-Fetch-Dest', 'document')], b''), # a link
    ('POST /pictures', [('Host', 'localhost:PORT'), ('Origin', 'http://localhost:PORT'), ('Sec-Fetch-Site', 'same-origin'), ('Content-Length', '50000')], b'x'*50_000)])
def test_the_page_itself_is_let_in(request_, headers, body, behind):
    port, came = behind
    assert asked(port, request_, headers, body) == 200 and came[-1] == len(body)
