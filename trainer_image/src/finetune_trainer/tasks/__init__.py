"""What a run learns to do, one file per task; the rest of the trainer talks to `task.Task`.

task                      what every task says of itself
choose                    the task of a run
causal_lm                 go on with a text or chat
sequence_classification   one label a text
token_classification      one label a word
seq2seq                   a target from a source, by an encoder and a decoder
question_answering        the span of a context
labels                    what both classifications share
answers                   text of a predicted span, and how it compares with those of the row
forward                   call a model with what its forward takes
head                      the part of a model that is the task's own
collate                   rows with targets -> one batch
measure                   all rows -> loss and metrics, exactly
"""
