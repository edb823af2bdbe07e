"""Rows of other tasks than CausalLM -> tokens and targets, one file each.

texts      SequenceClassification: a text, or two, and its label
words      TokenClassification: a label for the first token of each word
sequences  Seq2SeqLM: a source, and a target as tokens of its own
questions  QuestionAnswering: the first and last token of the answer
"""
