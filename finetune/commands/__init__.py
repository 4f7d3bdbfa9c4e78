"""The commands: settings in, work done, words out. One module for each verb.

Only `finetune.api` and the scripts import them.
"""
