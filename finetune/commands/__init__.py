"""What `finetune-convert`, `-train` and the other commands do: one module a verb, settings in, work done, words out."""
