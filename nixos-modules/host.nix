# For configurations without flakes that import this file; the module is in ./host.
{ imports = [ ./host ]; }
