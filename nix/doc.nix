# The handbook as web pages.
{ runCommand, mdbook }:

runCommand "microvm-doc" { nativeBuildInputs = [ mdbook ]; } ''
  # Chapters include the examples from beside them.
  cp -r ${../docs} docs
  cp -r ${../examples} examples
  chmod -R u+w .
  mdbook build docs --dest-dir $out
''
