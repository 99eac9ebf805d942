"""
The admin API: load, unload and activate models, look at the queue, drain devices, reload.

It goes through the arbiter like everybody else.  What it sets is in effect at once and, when the answer is
sent, on the disk (`state`).  Scope `admin`; every change is a POST.
"""
