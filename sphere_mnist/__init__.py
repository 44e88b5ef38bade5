"""Find the classes in images with almost no labels."""
__version__ = "0.1.0"
# Names load on first use: importing the package costs nothing until something of it is asked for.
_home = dict(load_images='data', Images='data', InputError='data', Spherical='frozen', preset_stages='published',
             train='training', evaluate='evaluation', SphericalClusterer='estimator', GMVAEClusterer='estimator', GumbelClusterer='estimator',
             MixEMClusterer='estimator', MetricEmbedder='estimator', load_system='share', export='share', normalize_digit='predict',
             predict_digits='predict', shipped_model='predict')
__all__ = [*_home]
_sources = ['datasets', 'sources', 'files']


def __getattr__(name):
    if name not in _home: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    value = globals()[name] = getattr(import_module(f'.{_home[name]}', __name__), name)
    return value


def register_sources():
    "Import the modules whose sources of images `load_images` finds by name or by suffix: `data` asks for them when it needs them."
    from importlib import import_module
    for name in _sources: import_module(f'.{name}', __name__)


def register_parts():
    "Import the modules whose parts a saved system may have: `models` asks for them when it meets one that it does not know."
    from importlib import import_module
    import_module('.corrections', __name__)


def __dir__(): return sorted([*globals(), *__all__])
