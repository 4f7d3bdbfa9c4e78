"""slim's `train_image_classifier.py`, by its old name: finetune-train."""

import sys

from finetune.commands.train import main

sys.exit(main())
