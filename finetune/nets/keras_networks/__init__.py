"""Networks of Keras Applications and their records: `--model keras/mobilenet_v2`.

A network of Keras is here one more function of images like those of slim: its layers are Keras's own, but their
variables are the model's, under their Keras paths (`block_1_expand/kernel`), so that plans, checkpoints, frozen layers,
cached features, precision and several devices are those of every network. `table` names them, `architecture` holds one
as data, `depth` finds its groups of layers, `layers` has the layers that are replaced, `network` calls it, `record`
makes the record.
"""
