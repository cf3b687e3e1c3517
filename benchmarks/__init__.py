"""Measurements of qcompiler and the models they run on."""
