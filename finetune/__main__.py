"""`python -m finetune` is the command `finetune`."""

from finetune.commands.main import main

if __name__ == "__main__":
    main()
