"""Write README.md from nbs/index.ipynb: text as it is, code fenced, outputs indented, `#| hide` cells left out.

`nbdev_readme` does the same through Quarto, which is a download that not every machine can make. Once `settings.ini` has the
repository's address, a badge tells of the tests, and each notebook of the map gets a link and a badge that opens it in Colab."""
import base64, json, re, sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
figures = 'nbs/images'


def outputs(cell, n):
    "Markdown for the outputs of a code cell; figures become files beside the notebooks."
    for k, out in enumerate(cell.get('outputs', [])):
        data = out.get('data', {})
        if 'image/png' in data:
            name = f'{figures}/index-{n}.png'
            yield f'![]({name})', (name, base64.b64decode(''.join(data['image/png'])))
        elif 'text/markdown' in data: yield ''.join(data['text/markdown']), None
        elif (text := ''.join(out.get('text', data.get('text/plain', [])))).strip():
            yield '\n'.join('    ' + l for l in text.rstrip().splitlines()), None


def readme(notebook):
    "The README's text and the figures it shows."
    parts, files, n = [], {}, 0
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if re.search(r'^#\|\s*hide\b', source, re.M): continue
        if cell['cell_type'] == 'markdown': parts.append(source); continue
        shown = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
        if shown and not re.search(r'^#\|\s*echo:\s*false', source, re.M): parts.append(f'```python\n{shown}\n```')
        for text, file in outputs(cell, n):
            if file: files[file[0]] = file[1]; n += 1
            parts.append(text)
    head = '<!-- Written by .ci/readme.py from nbs/index.ipynb: edit that. -->\n\n'
    return head + '\n\n'.join(p.strip('\n') for p in parts) + '\n', files


def linked(text, url, branch):
    "The README with what leads to the repository, on GitHub."
    place = url.removeprefix('https://github.com/')
    def of_notebook(row):
        path = f'{place}/blob/{branch}/nbs/{row[1]}.ipynb'
        badge = f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{path})'
        return f'| [`{row[1]}`](https://github.com/{path}) {badge} |'
    text = re.sub(r'^\| `(\d\d_\w+)` \|', of_notebook, text, flags=re.M)
    return re.sub(r'^# .*$', rf'\g<0>\n\n[![tests]({url}/actions/workflows/test.yaml/badge.svg)]({url}/actions/workflows/test.yaml)', text, count=1, flags=re.M)


if __name__ == '__main__':
    settings = ConfigParser(interpolation=None)
    settings.read(root/'settings.ini', encoding='utf-8')
    text, files = readme(json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8')))
    if url := settings['DEFAULT']['git_url']: text = linked(text, url, settings['DEFAULT']['branch'])
    (root/'README.md').write_text(text, encoding='utf-8')
    for name, data in files.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(data)
    print(f'README.md: {len(text)} characters, {len(files)} figures', file=sys.stderr)
