"""The page of a comparison: one file for a browser, and its charts and tables as files.

Needs the extra `report` (Altair, vl-convert-python); only `dpojax report` imports it.
"""
