"""Jobs beside the relay, over short ordinary connections: none of them touches a running relay or its slot's position.

install.py       the SQL in sql/, with names filled in; applied
installation.py  what of it a database has
emit.py          one event, through the function that install made
"""
