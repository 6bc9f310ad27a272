package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

const (
	// maxAnswer bounds an answer, in bytes; the longest one, vm.info with many devices,
	// has tens of kilobytes.
	maxAnswer = 1 << 20
	// apiTimeout bounds one call, whatever the caller allows.
	apiTimeout = 10 * time.Second
)

// api is a client of HTTP over a Unix socket, with one connection per call.
type api struct {
	socket, base string
	client       http.Client
}

func newAPI(dir, socket, base string) *api {
	return &api{socket: filepath.Join(dir, socket), base: "http://localhost" + base, client: http.Client{
		Timeout: apiTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: 1 << 16,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := safepath.DialBeneath(ctx, dir, socket, unix.SOCK_STREAM)
				if err != nil {
					return nil, err // conn would be a non-nil interface
				}
				return conn, nil
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close implements Client.
func (a *api) Close() error {
	a.client.CloseIdleConnections()
	return nil
}

// call sends body as JSON, unless it is nil, and decodes the answer into out, unless that is
// nil.
func (a *api) call(ctx context.Context, method, path string, body, out any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
		payload = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	answer, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("API socket %s: %w", a.socket, err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("API socket %s: %s %s: read the answer: %w", a.socket, method, path, err)
	case len(text) > maxAnswer:
		return otherProgram(fmt.Errorf("API socket %s: %s %s: the answer is longer than %d bytes", a.socket, method, path, maxAnswer))
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return fmt.Errorf("API socket %s: %s %s: %s: %s", a.socket, method, path, answer.Status, oneLine(text))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return otherProgram(fmt.Errorf("API socket %s: %s %s: unexpected answer: %w", a.socket, method, path, err))
	}
	return nil
}

// oneLine returns a text of the other side, bounded and on one line, for an error.
func oneLine(text []byte) string {
	const most = 300
	if len(text) > most {
		text = text[:most]
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
}

// cloudHypervisor is a client of Cloud Hypervisor's API,
// vmm/src/api/openapi/cloud-hypervisor.yaml.
type cloudHypervisor struct {
	*api
	silent
}

type chInfo struct {
	State  string `json:"state"`
	Config struct {
		Memory struct {
			Size int64 `json:"size"` // bytes
			// Hotplugged is the memory that virtio-mem adds, in bytes.
			Hotplugged int64 `json:"hotplugged_size"`
		} `json:"memory"`
	} `json:"config"`
	// Actual is the memory without what the balloon holds, in bytes.
	Actual int64 `json:"memory_actual_size"`
}

func (c *cloudHypervisor) info(ctx context.Context) (info chInfo, err error) {
	err = c.call(ctx, http.MethodGet, "vm.info", nil, &info)
	return info, err
}

// Running implements Client.
func (c *cloudHypervisor) Running(ctx context.Context) (bool, error) {
	info, err := c.info(ctx)
	return info.State == "Running", err
}

// AwaitRunning implements Client.
func (c *cloudHypervisor) AwaitRunning(ctx context.Context) error { return pollRunning(ctx, c.Running) }

// CtrlAltDel implements Client.
func (c *cloudHypervisor) CtrlAltDel(context.Context) error {
	return errNoWay("cloud-hypervisor", "press keys")
}

// PowerButton implements Client.
func (c *cloudHypervisor) PowerButton(ctx context.Context) error {
	return c.call(ctx, http.MethodPut, "vm.power-button", nil, nil)
}

// Memory implements Client.
func (c *cloudHypervisor) Memory(ctx context.Context) (int, error) {
	info, err := c.info(ctx)
	return int((info.Config.Memory.Size + info.Config.Memory.Hotplugged) >> 20), err
}

// GuestMemory implements Client.
func (c *cloudHypervisor) GuestMemory(ctx context.Context) (int, error) {
	info, err := c.info(ctx)
	return int(info.Actual >> 20), err
}

// SetGuestMemory implements Client.
func (c *cloudHypervisor) SetGuestMemory(ctx context.Context, guest, whole int) error {
	return c.call(ctx, http.MethodPut, "vm.resize", map[string]int64{"desired_balloon": int64(whole-guest) << 20}, nil)
}

// firecracker is a client of Firecracker's API, src/firecracker/swagger/firecracker.yaml.
type firecracker struct {
	*api
	silent
}

// Running implements Client.
func (f *firecracker) Running(ctx context.Context) (bool, error) {
	var instance struct {
		State string `json:"state"`
	}
	err := f.call(ctx, http.MethodGet, "", nil, &instance)
	return instance.State == "Running", err
}

// AwaitRunning implements Client.
func (f *firecracker) AwaitRunning(ctx context.Context) error { return pollRunning(ctx, f.Running) }

// CtrlAltDel implements Client.
func (f *firecracker) CtrlAltDel(ctx context.Context) error {
	return f.call(ctx, http.MethodPut, "actions", map[string]string{"action_type": "SendCtrlAltDel"}, nil)
}

// PowerButton implements Client.
func (f *firecracker) PowerButton(context.Context) error {
	return errNoWay("firecracker", "press a power button")
}

// Memory implements Client.
func (f *firecracker) Memory(ctx context.Context) (int, error) {
	var machine struct {
		MiB int `json:"mem_size_mib"`
	}
	err := f.call(ctx, http.MethodGet, "machine-config", nil, &machine)
	return machine.MiB, err
}

// GuestMemory implements Client.
func (f *firecracker) GuestMemory(ctx context.Context) (int, error) {
	whole, err := f.Memory(ctx)
	if err != nil {
		return 0, err
	}
	var stats struct {
		Actual *int `json:"actual_mib"`
	}
	if err := f.call(ctx, http.MethodGet, "balloon/statistics", nil, &stats); err != nil {
		return 0, err
	}
	if stats.Actual == nil {
		return 0, exit.WithHint(errors.New("firecracker does not report the balloon's size"),
			"does firecracker.extraConfig remove stats_polling_interval_s?")
	}
	return whole - *stats.Actual, nil
}

// SetGuestMemory implements Client.
func (f *firecracker) SetGuestMemory(ctx context.Context, guest, whole int) error {
	return f.call(ctx, http.MethodPatch, "balloon", map[string]int{"amount_mib": whole - guest}, nil)
}
