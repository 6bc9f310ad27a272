package virtiofsd

// Locate returns the program that would serve a share that names program; an
// empty one means the first usable of the host. The error says why there is
// none.
func Locate(program string) (string, error) {
	p, err := findProgram(program)
	if err != nil {
		return "", err
	}
	return p.path, nil
}
