# The handbook as web pages.
{ runCommand, mdbook }:

runCommand "microvm-doc" { nativeBuildInputs = [ mdbook ]; } ''
  # Chapters include files of ../examples.
  cp -r ${../docs} docs
  cp -r ${../examples} examples
  chmod -R u+w .
  mdbook build docs --dest-dir $out
''
