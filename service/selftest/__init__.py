"""`attendant-server --self-test`: do the models do on this machine what they did where they were
exported, and how fast?

run.py         the models folder, model by model, to a verdict and an exit status
examination.py one model: every precision that it ships, through all checks
checks.py      answers beside other answers: what passes, what is worth a note, what fails
trial.py       asking an engine: alone, in company, as fast as it can
texts.py       a translation engine under test
images.py      a classification engine under test
samples.py     texts and images of our own, to keep the others company
report.py      findings as a table with a verdict
machine.py     what this machine is

What passes:
- Golden answers (`service.golden`), each text and image alone. In fp32 on a CPU every answer must
  be the same and its numbers within a tolerance; so must those of int8 where ONNX Runtime and the
  CPU's instructions are those that the answers were made with. Elsewhere int8 rounds differently
  now and then, and so does everything on a GPU: there the answers must be alike, which is noted.
- In company: the same texts and images again, among others that come, stay or leave at random. On
  a CPU every answer must be the same to the last bit; on a GPU the share is noted.
- The lossy precisions beside fp32: their answers must be alike.
- Speed is measured, not judged; a precision that is faster than the server's choice is noted.

Knows the engines, neither the wire nor the server.
"""

from service.selftest.run import self_test

__all__ = ["self_test"]
