"""Slim's name for finetune-convert."""

from finetune.commands.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
