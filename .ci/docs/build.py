"""The documentation site from the notebooks: `python .ci/docs/build.py` writes it into `_docs/`, with warnings as errors.

The notebooks are shown as they were committed; the API pages are read from the exported modules, without importing them."""
import ast, json, re, shutil, sys, tokenize
from io import StringIO
from pathlib import Path
from sphinx.cmd.build import main as sphinx

here = Path(__file__).resolve().parent
root = here.parent.parent
sys.path.insert(0, str(root))
from sphere_mnist.signatures import constructor, found, source_of # which read the modules as text, too
PARTS = {('46', '47', '48', '49', '5', '6'): 'Your pictures and programs', '0': 'The parts', '1': 'The spherical method', '2': 'Mixtures', '3': 'Contrast', '4': 'With labels'} # by first figures: the first that fits
FENCE = re.compile(r'(^```.*?^```$|`+[^`]+`+)', re.M | re.S)


def comments(text):
    "Line number -> the comment on that line."
    return {t.start[0]: t.string.lstrip('# ') for t in tokenize.generate_tokens(StringIO(text).readline) if t.type == tokenize.COMMENT}


def escaped(text): return re.sub(r'([\\*_$<\[\]{}|@])', r'\\\1', text) if '`' not in text else text.replace('$', r'\$')


def signature(function, skip_self):
    "Arguments and the result, as Python writes them."
    arguments = ast.parse(ast.unparse(function.args).join(['def f(', '): pass'])).body[0].args
    if skip_self: (arguments.posonlyargs or arguments.args)[:1] = []
    return f'({ast.unparse(arguments)})' + (f' -> {ast.unparse(function.returns)}' if function.returns else '')


def parameters(function, said):
    "A field for each documented argument, and for the result."
    given = function.args
    for a in [*given.posonlyargs, *given.args, *filter(None, [given.vararg]), *given.kwonlyargs, *filter(None, [given.kwarg])]:
        if a.arg not in ('self', 'cls') and (what := said.get(a.end_lineno)): yield f':param {a.arg}: {escaped(what)}'
    if function.returns and (what := said.get(function.returns.end_lineno)): yield f':returns: {escaped(what)}'


def estimator(node):
    "Signature and fields of a class whose constructor is made of the parameters of all estimators and the settings of its system."
    said = {ast.unparse(n.targets[0]): n.value for n in node.body if isinstance(n, ast.Assign)}
    if 'system_class' not in said: return '', []
    def documented(module, function, without):
        text = comments('\n'.join(line.decode() for line in source_of(module).lines))
        given = function.args
        values = dict(zip([a.arg for a in given.args[::-1]], given.defaults[::-1])) | dict(zip([a.arg for a in given.kwonlyargs], given.kw_defaults))
        return [(a, values.get(a.arg), text.get((values.get(a.arg) or a).end_lineno, '')) for a in [*given.args, *given.kwonlyargs] if a.arg not in without]
    words = [word.value for word in ast.walk(said['shared']) if isinstance(word, ast.Constant)] if 'shared' in said else []
    shared = documented(*found('estimator', 'shared_parameters'), words)
    own = documented(*constructor(*found('estimator', said['system_class'].id)), ('self', 'shape', 'n_clusters', 'classes')) # which the data decide
    def typed(a, default, more=''): return a.arg + (f': {ast.unparse(a.annotation)}{more}' if a.annotation else '') + f' = {default}'
    first, *rest = [typed(a, ast.unparse(value)) for a, value, _ in shared] + [typed(a, 'None', ' | None') for a, _, _ in own]
    base = f'{{py:obj}}`{node.bases[0].id} <sphere_mnist.estimator.{node.bases[0].id}>`'
    return f'({", ".join([first, "*", *rest])})', [*(f':param {a.arg}: {escaped(what)}' for a, _, what in shared + own), '', f'Its methods are those of {base}. A parameter that is None is as the preset has it.']


def directive(kind, head, lines, level=3):
    return '\n'.join([':'*level + f'{{py:{kind}}} {head}', *lines, ':'*level, ''])


def described(node, module, said, derived):
    "The entry of a function, a class or a value."
    match node:
        case ast.FunctionDef():
            return directive('function', node.name + signature(node, False), [ast.get_docstring(node) or '', '', *parameters(node, said), '', derived])
        case ast.ClassDef():
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
            made = next((m for m in methods if m.name == '__init__'), None)
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
            own = [f':param {f.target.id}: {escaped(said[f.end_lineno])}' for f in fields if f.end_lineno in said]
            call, meanings = estimator(node)
            lines = [ast.get_docstring(node) or '', '', *(parameters(made, said) if made else own or meanings), '', derived, '']
            for m in methods:
                if not m.name.startswith('_') and ast.get_docstring(m):
                    static = any(getattr(d, 'id', '') == 'property' for d in m.decorator_list)
                    head = m.name if static else m.name + signature(m, not any(getattr(d, 'id', '') == 'staticmethod' for d in m.decorator_list))
                    lines.append(directive('property' if static else 'method', head, [ast.get_docstring(m), '', *parameters(m, said)]))
            shown = signature(made, True).split(' -> ')[0] if made else '(' + ', '.join(ast.unparse(f) for f in fields) + ')' if fields else call
            return directive('class', node.name + shown, lines, 4)
        case ast.Assign(): return directive('data', node.targets[0].id, [escaped(said.get(node.end_lineno, said.get(node.lineno, ''))), '', derived])


def api_page(file, places):
    "Markdown of a module's public names, and the names."
    text = file.read_text(encoding='utf-8')
    tree, said, module = ast.parse(text), comments(text), f'sphere_mnist.{file.stem}'
    public = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == '__all__'), [])
    notebook = Path(re.search(r'File to edit: \S*?([\w.]+\.ipynb)', text)[1]).stem
    entries, names = [], []
    for node in tree.body:
        name = getattr(node, 'name', None) or (node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else None)
        if name not in public: continue
        derived = f'Derived in [](#{places[notebook, name]}).' if (notebook, name) in places else ''
        entries.append(described(node, module, said, derived))
        names.append(name)
    head = (f'# `{module}`\n\n> {ast.get_docstring(tree)}\n\nWritten in [](../{notebook}.ipynb).\n\n:::{{py:module}} {module}\n:::\n')
    return '\n'.join([head, *entries]), names


def headings(notebook, stem):
    "Name -> label of the section in which it is defined; writes the labels into the text."
    places, anchors, label, n = {}, {}, None, 0
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            def labelled(match):
                nonlocal label, n
                if match[0].startswith('`'): return match[0]
                label, n = f'{stem}-{n}', n + 1
                anchors[match[0].lstrip('# ').replace(' ', '-')] = label # as Jupyter calls it
                return f'({label})=\n{match[0]}'
            cell['source'] = re.sub(r'^```[\s\S]*?^```$|^#{1,4} .*$', labelled, source, flags=re.M)
        elif re.search(r'^#\|\s*exports?\b', source, re.M):
            for name in re.findall(r'^(?:def|class)\s+(\w+)|^(\w+)\s*=', source, re.M): places[stem, name[0] or name[1]] = label
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = re.sub(r'\]\(#([^)]+)\)', lambda m: f'](#{anchors.get(m[1], m[1])})', cell['source'])
    return places


def linked(text, notebooks, known, own):
    "Names of notebooks and of the package, between back-ticks, become links."
    def link(match):
        name = match[0].strip('`')
        if match[0].startswith('``'): return match[0]
        if name in notebooks: return f'[{name}]({name}.ipynb)'
        homes = known.get(name.removesuffix('()').removeprefix('sphere_mnist.'), [])
        home = own if own in homes else homes[0] if len(homes) == 1 and re.search('[A-Z_]', name) else None
        return f'{{py:obj}}`{name} <sphere_mnist.{home}.{name.removesuffix("()")}>`' if home else match[0]
    return FENCE.sub(link, text)


def imports_only(source):
    try: return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)
    except SyntaxError: return False # shell commands and magics


def page(notebook, notebooks, known, own):
    "A notebook as Sphinx is to show it: no hidden cell, no directive, links, words for each picture."
    cells, before = [], ''
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            before = re.sub(r'[`$*"]|\(\S+\)=', '', source).strip().split('\n\n')[-1].replace('\n', ' ')
            cells.append(cell | dict(source=linked(source, notebooks, known, own)))
            continue
        told = dict(re.findall(r'^#\|\s*([\w-]+):?\s*(.*?)\s*$', source, re.M))
        source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')
        if 'hide' in told or not (source or cell.get('outputs')): continue
        tags = ['remove-input'] if told.get('echo') == 'false' else ['hide-input'] if 'export' in told or imports_only(source) else []
        words = dict(mystnb=dict(image=dict(alt=before.rstrip(':') or 'figure')))
        cells.append(cell | dict(source=source, metadata=dict(tags=tags, **words)))
    return notebook | dict(cells=cells)


def toctrees(notebooks):
    "The order of the pages, as the last cell of the first page."
    part = {n: next((title for figures, title in PARTS.items() if n.startswith(figures)), None) for n in notebooks}
    groups = {title: [n for n in notebooks if part[n] == title] for title in PARTS.values()}
    trees = [f'```{{toctree}}\n:hidden:\n:caption: {title}\n\n' + '\n'.join(names) + '\n```' for title, names in groups.items() if names]
    return '\n\n'.join([*trees, '```{toctree}\n:hidden:\n:caption: Reference\n\napi/index\n```'])


def build(out):
    "Write the site, by way of `_proc/` beside it; returns Sphinx's exit status."
    out = out.resolve()
    work = out.parent/'_proc'
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    (work/'api').mkdir(parents=True)
    files = {f.stem: json.loads(f.read_text(encoding='utf-8')) for f in sorted((root/'nbs').glob('[!_.]*.ipynb'))}
    places = {}
    for stem, notebook in files.items(): places |= headings(notebook, stem)
    modules = {f.stem: api_page(f, places) for f in sorted((root/'sphere_mnist').glob('[!_]*.py'))}
    known = {}
    for module, (text, names) in modules.items():
        (work/'api'/f'{module}.md').write_text(text, encoding='utf-8')
        for name in names: known.setdefault(name, []).append(module)
    (work/'api'/'index.md').write_text('# The package\n\nEvery public name, with its parameters, read from the modules.\n\n```{toctree}\n' +
                                       '\n'.join(modules) + '\n```\n', encoding='utf-8')
    for stem, notebook in files.items():
        own = re.search(r'default_exp (\w+)', json.dumps(notebook))
        shown = page(notebook, files, known, own and own[1])
        if stem == 'index': shown['cells'].append(dict(cell_type='markdown', id='pages', metadata={}, source=toctrees(files)))
        (work/f'{stem}.ipynb').write_text(json.dumps(shown), encoding='utf-8')
    status = sphinx(['-W', '--keep-going', '-q', '-b', 'html', '-c', str(here), '-d', str(work/'.doctrees'), str(work), str(out)])
    for place in (out, out.parent): shutil.rmtree(place/'jupyter_execute', ignore_errors=True) # copies of the notebooks, to which nothing leads
    print(f'{len([*out.rglob("*.html")])} pages: open {out/"index.html"}' if not status else f'The site in {out} is not whole: see the warnings above.')
    return status


if __name__ == '__main__': sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else root/'_docs'))
