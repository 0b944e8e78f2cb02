"""Comparisons and studies: many runs of :mod:`gradmix_ext.continual`, in a folder, with statistics.

What ``gradmix train``, ``compare`` and ``diagnose`` do. :mod:`.experiment` trains one arm with one
seed, :mod:`.jobs` and :mod:`.parallel` many, :mod:`.run_folder` keeps and resumes them,
:mod:`.compare` and :mod:`.statistics` test the differences, :mod:`.suites` are declared studies and
:mod:`.diagnosis` asks whether the scores of class pairs predict what mixing them does.
"""
