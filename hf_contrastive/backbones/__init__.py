"""Small image backbones that ship with the library. Systems take any AutoModel; these serve where transformers has none.

Nothing is imported here: configurations are needed before torch-heavy modules may load (see auto_registration.py).
"""
