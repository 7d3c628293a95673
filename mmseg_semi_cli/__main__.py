"""``python -m mmseg_semi_cli`` is the program ``mmseg-semi``."""

from mmseg_semi_cli import main

if __name__ == '__main__':
    main()
