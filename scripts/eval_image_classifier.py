"""slim's `eval_image_classifier.py`, by its old name: finetune-eval."""

import sys

from finetune.commands.evaluate import main

sys.exit(main())
