"""The commands other than `run`, over short ordinary connections. None of them affects a running relay or its slot's position.

install.py       the SQL in sql/, with names filled in; applied
installation.py  the objects of install.py that a database has
emit.py          one event, through the function that install.py creates
"""
