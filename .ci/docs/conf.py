"How Sphinx shows the notebooks: nothing is run, nothing is fetched, formulas are MathML."
import re
from configparser import ConfigParser
from pathlib import Path
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here.parent.parent/'settings.ini', encoding='utf-8')
settings = ini['DEFAULT']
project, author, release = settings['lib_name'], settings['author'], settings['version']
copyright = settings['copyright']
extensions = ['myst_nb']
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'fieldlist']
nb_execution_mode = 'off'
nb_merge_streams = True
nb_render_markdown_format = 'myst' # tables in outputs too
root_doc = 'index'
exclude_patterns = ['README.md']
html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = [str(here/'static')]
html_css_files = ['site.css']
html_search_scorer = str(here/'scorer.js')
html_show_sourcelink = html_copy_source = False
html_math_renderer = 'mathml'
html_theme_options = dict(use_download_button=False, show_toc_level=2, home_page_in_toc=True,
                          # the theme hides these, but binds the buttons of the menus to the ones in them, which nobody can see
                          navbar_start=[], navbar_center=[], navbar_end=[], navbar_persistent=[])
if settings['git_url']: # once the repository has an address: a link to it, and on each notebook one that opens it in Colab
    html_theme_options |= dict(repository_url=settings['git_url'], repository_branch=settings['branch'], path_to_docs=settings['nbs_path'],
                               use_repository_button=True, launch_buttons=dict(colab_url='https://colab.research.google.com'))
html_context = dict(default_mode='auto') # as the reader's system has it
python_display_short_literal_types = True
python_maximum_signature_line_length = 90
add_module_names = False


def mathml(latex, display):
    "MathML, which browsers draw themselves; a command that the converter does not know is an error."
    latex = re.sub(r'\\arg\b', r'\\operatorname{arg}', latex) # the one operator in use that the converter lacks
    found = convert(latex, display='block' if display else 'inline')
    if unknown := re.search(r'\\[A-Za-z]+', found): raise ExtensionError(f'{unknown[0]} has no MathML, in {latex}')
    return found


def inline(self, node):
    self.body.append(mathml(node.astext(), False))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="math">{mathml(node.astext(), True)}</div>')
    raise nodes.SkipNode


def setup(app): app.add_html_math_renderer('mathml', (inline, None), (block, None))
