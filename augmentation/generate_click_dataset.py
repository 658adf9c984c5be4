"""Write synthetic gestures: `python -m augmentation.generate_click_dataset --output_dir D`."""

import sys

from action_ddim.cli.main import generate

if __name__ == "__main__":
    sys.exit(generate(sys.argv[1:], prog="python -m augmentation.generate_click_dataset"))
