# The handbook as web pages.
{ runCommand, mdbook }:

runCommand "microvm-doc" { nativeBuildInputs = [ mdbook ]; } ''
  mdbook build ${../docs} --dest-dir $out
''
