package virtiofsd

// Locate returns the path of the virtiofsd that serves a share whose Program is
// program. If program is empty, that is the first usable virtiofsd of the host.
func Locate(program string) (string, error) {
	p, err := findProgram(program)
	if err != nil {
		return "", err
	}
	return p.path, nil
}
