"""The version of mmseg_semi; ``setup.py`` reads this file as text, so it must import nothing."""

__version__ = '0.1.0'
