"""How a program of integer calls runs on the cpu; `../integer.py` is the door.

`plan.py` lays out memory (`values.py`, `pack.py`) and writes a table of steps; `run.py` walks it, a group of
images at a time; `steps.py` has the small steps and `multiply.py` the products, in tiles of vpdpbusd
(`tile.py`) or in ordinary loops (`plain.py`), as `routes.py` says.
"""
