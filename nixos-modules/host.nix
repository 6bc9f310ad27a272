# For people without flakes who import this file; the module is the directory.
{ imports = [ ./host ]; }
