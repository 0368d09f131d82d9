"""What processes agree on.

numoe/v1/ holds the schemas of the services (*.proto), with the generated code beside them, imported as numoe.v1, and
numoe/oip/ that of the Open Inference Protocol. The modules here hold what else is agreed: the layout of the memory that
coordinator and workers share (arena.py), the messages between them (messages.py), a worker's report on where its memory
lies (locality.py), plain data for schemas' messages (plain_data.py), and what can go wrong (errors.py).
"""
