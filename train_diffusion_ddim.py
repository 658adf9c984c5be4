"""Train a DDIM model of actions: `python train_diffusion_ddim.py --data_dir D --val_data_dir V`, --help for the rest."""

import sys

from action_ddim.cli.main import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
