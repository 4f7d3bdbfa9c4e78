"""The table of networks: one record for each, in the order of `finetune-inspect --models`. No TensorFlow is needed."""

from finetune.nets.spec import NetSpec

SPECS: tuple[NetSpec, ...] = ()
