"""Package metadata, read from settings.ini."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
licences = {'apache2': 'Apache-2.0'}
statuses = {'3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}
extras = {name: cfg[f'{name}_requirements'].split() for name in ('export', 'demo', 'backbones', 'docs', 'bench')}
of_dev = [package for name in ('export', 'demo', 'backbones', 'docs') for package in extras[name]] # clustpy, of bench, wants a compiler

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'] or None,
    url=cfg['git_url'] or None,
    license=licences[cfg['license']],
    keywords=cfg['keywords'].split(),
    classifiers=[
        f"Development Status :: {statuses[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        'Programming Language :: Python :: 3',
    ],
    packages=find_packages(include=['sphere_mnist', 'sphere_mnist.*']),
    package_data={'sphere_mnist': ['shipped/*', 'weights/*/*']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras | {'dev': cfg['dev_requirements'].split() + of_dev},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    zip_safe=False,
)
