"""Bring your own checkpoint: a folder that transformers saved becomes a bundle, or is refused.

checkpoint.py    config.json, generation_config.json and the older place of its fields
tensors.py       weights, read one at a time; names.py and weights.py say which is which, for
                 pictures vision_weights.py; misfits.py lists what does not fit
generation.py    decoding defaults; what is not served is refused by name
texts.py         tokenizers and languages; languages.py has BCP 47
preprocessing.py image processors; vision_config.py has sizes and labels
families/        one file for each, of switches
importing.py     the whole way; command.py is the command line
translation.py   all of it becomes a bundle; vision.py does it for pictures
parity.py        the bundle beside transformers; vision_parity.py does it for pictures
report.py        the closing table
"""
