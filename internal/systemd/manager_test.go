package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"microvm/internal/exit"
)

// soon is a context that ends if an answer does not come.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var web = Unit{Name: "microvm@web.service", Load: "loaded", Active: "active", Sub: "running", Path: "/web", JobPath: "/"}

// get answers Properties.Get and GetAll from properties by interface.
func get(properties map[string]map[string]any) map[string]method {
	variant := func(v any) dbus.Variant { return dbus.MakeVariant(v) }
	return map[string]method{
		propertiesInterface + ".Get": func(args []any) []any {
			v, ok := properties[args[0].(string)][args[1].(string)]
			if !ok {
				return []any{dbus.Error{Name: "org.freedesktop.DBus.Error.UnknownProperty", Body: []any{"no such property"}}}
			}
			return []any{variant(v)}
		},
		propertiesInterface + ".GetAll": func(args []any) []any {
			all := map[string]dbus.Variant{}
			for of, props := range properties {
				if of == args[0] || args[0] == "" {
					for name, v := range props {
						all[name] = variant(v)
					}
				}
			}
			return []any{all}
		},
	}
}

// TestAShortFirstCallIsAnswered although the manager reads its beginning along with the
// end of the authentication.
func TestAShortFirstCallIsAnswered(t *testing.T) {
	f := newFake(t, map[string]method{managerInterface + ".GetUnit": func([]any) []any { return []any{dbus.ObjectPath("/web")} }})
	conn, err := private(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var path dbus.ObjectPath
	if err := conn.Object(managerName, managerPath).CallWithContext(soon(t), managerInterface+".GetUnit", 0, "x").Store(&path); err != nil || path != "/web" {
		t.Errorf("%q, %v", path, err)
	}
	if !f.called(managerInterface + ".GetUnit") {
		t.Error("the manager was not called")
	}
}

func TestUnitsAreListedWithTheirProperties(t *testing.T) {
	var patterns any
	methods := get(map[string]map[string]any{
		unitInterface:    {"ActiveState": "active"},
		serviceInterface: {"MainPID": uint32(42), "TimeoutStopUSec": uint64(90_000_000)},
		managerInterface: {"Version": "257.9-1~deb13u1"},
	})
	methods[managerInterface+".ListUnitsByPatterns"] = func(args []any) []any {
		patterns = args[1]
		return []any{[]Unit{web}}
	}
	newFake(t, methods)
	units, err := ListUnits(soon(t), "microvm@*.service")
	if err != nil || len(units) != 1 || units[0] != web || fmt.Sprint(patterns) != "[microvm@*.service]" {
		t.Fatalf("%+v of %v, %v", units, patterns, err)
	}
	props, err := Properties(soon(t), units...)
	if err != nil || Property[uint32](props[web.Name], "MainPID") != 42 || Property[string](props[web.Name], "ActiveState") != "active" {
		t.Errorf("%v, %v", props, err)
	}
	if Property[string](props[web.Name], "MainPID") != "" || Property[uint32](props["other"], "MainPID") != 0 {
		t.Error("a property of another type, or of no unit, has a value")
	}
	if d, err := StopTimeout(soon(t), web.Name); err != nil || d != 90*time.Second {
		t.Errorf("stop timeout %s, %v", d, err)
	}
	if pid, err := MainPID(soon(t), web.Name); err != nil || pid != 42 {
		t.Errorf("main process %d, %v", pid, err)
	}
	if v := Version(); v != 257 {
		t.Errorf("version %d", v)
	}
}

func TestMissingPropertiesAreErrors(t *testing.T) {
	methods := get(map[string]map[string]any{serviceInterface: {"MainPID": uint32(0)}})
	newFake(t, methods)
	if _, err := MainPID(soon(t), web.Name); err == nil || !strings.Contains(err.Error(), "microvm@web.service is not running") {
		t.Errorf("main process: %v", err)
	}
	if _, err := StopTimeout(soon(t), web.Name); err == nil || !strings.Contains(err.Error(), "TimeoutStopSec= of microvm@web.service: no such property") {
		t.Errorf("stop timeout: %v", err)
	}
	if _, err := ListUnits(soon(t)); !is(errors.Unwrap(err), unknownMethod) {
		t.Errorf("units: %v", err)
	}
	if v := Version(); v != 0 {
		t.Errorf("version %d", v)
	}
}

func TestJobsEndWithTheirResults(t *testing.T) {
	var f *fake
	id := uint32(0)
	job := func(result string) method {
		return func(args []any) []any {
			if args[0] == "none.service" {
				return []any{dbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit", Body: []any{"Unit none.service not found."}}}
			}
			id++
			path := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", id))
			n := id
			// After the reply.
			time.AfterFunc(50*time.Millisecond, func() { f.signal("JobRemoved", n, path, args[0], result) })
			return []any{path}
		}
	}
	reloaded := 0
	f = newFake(t, map[string]method{
		managerInterface + ".StartUnit":       job(Done),
		managerInterface + ".StopUnit":        job(Failed),
		managerInterface + ".RestartUnit":     job(Canceled),
		managerInterface + ".EnableUnitFiles": func([]any) []any { return []any{true, [][]any{}} },
		managerInterface + ".Reload":          func([]any) []any { reloaded++; return nil },
		managerInterface + ".CancelJob":       func([]any) []any { return nil },
		managerInterface + ".ResetFailedUnit": func([]any) []any { return nil },
	})
	for kind, want := range map[Job]string{Start: Done, Stop: Failed, Restart: Canceled} {
		var got []Result
		if err := RunJobs(soon(t), kind, []string{web.Name}, func(r Result) { got = append(got, r) }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Unit != web.Name || got[0].Result != want || got[0].Job != id || got[0].Err != nil {
			t.Errorf("%s: %+v, want %s", kind, got, want)
		}
	}
	var results []string
	err := RunJobs(soon(t), Start, []string{"none.service", web.Name}, func(r Result) { results = append(results, fmt.Sprint(r.Unit, " ", r.Result, r.Err)) })
	slices.Sort(results)
	if want := []string{"microvm@web.service done<nil>", "none.service start none.service: Unit none.service not found."}; err != nil || !slices.Equal(results, want) {
		t.Errorf("%q, want %q; %v", results, want, err)
	}
	if err := errors.Join(Reload(soon(t)), Enable(soon(t), []string{web.Name}), CancelJob(soon(t), 7), ResetFailed(soon(t), web.Name)); err != nil || reloaded != 2 {
		t.Errorf("reloaded %d times; %v", reloaded, err)
	}
}

func TestTheLastRunOfAServiceIsRead(t *testing.T) {
	type job struct {
		ID                uint32
		Unit, Kind, State string
		Path, UnitPath    dbus.ObjectPath
	}
	methods := get(map[string]map[string]any{unitInterface: {"ActiveEnterTimestampMonotonic": uint64(2_000_000)}, serviceInterface: {
		"ExecMainStartTimestampMonotonic": uint64(1_000_000), "ExecMainExitTimestampMonotonic": uint64(5_000_000),
		"StatusText": "guest is up", "Restart": "always",
	}})
	methods[managerInterface+".ListJobs"] = func([]any) []any {
		return []any{[]job{{3, "other.service", "stop", "waiting", "/3", "/o"}, {4, web.Name, "start", "waiting", "/4", "/web"}}}
	}
	methods[managerInterface+".ListUnitsByNames"] = func([]any) []any {
		return []any{[]Unit{{Name: "pin.service", Active: "active", Path: "/p", JobPath: "/"}}}
	}
	newFake(t, methods)
	r, err := LastRun(soon(t), web.Name, "pin.service")
	if err != nil || r.Stopping || r.StartJob != 4 || !r.Ready || r.Uptime != 3*time.Second || r.Status != "guest is up" || !r.Pinned || !r.TriedAgain("exit-code", "1") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTheStateOfAServiceNamesWhatIsInItsWay(t *testing.T) {
	methods := get(map[string]map[string]any{
		unitInterface: {
			"ActiveState": "inactive", "SubState": "dead", "Requires": []string{"tap.service", "pin.service"},
			"Conditions": []struct {
				Name              string
				Triggers, Negated bool
				Value             string
				State             int32
			}{{"ConditionPathExists", false, false, "/x", -1}},
		},
		serviceInterface: {"Result": "success"},
	})
	methods[managerInterface+".LoadUnit"] = func([]any) []any { return []any{dbus.ObjectPath("/web")} }
	methods[managerInterface+".ListUnitsByPatterns"] = func([]any) []any {
		return []any{[]Unit{{Name: "tap.service", Active: "failed", Path: "/t", JobPath: "/"}, {Name: "pin.service", Active: "active", Path: "/p", JobPath: "/"}}}
	}
	newFake(t, methods)
	s, err := LookAt(soon(t), web.Name)
	if err != nil || s.Active != "inactive" || s.Sub != "dead" || s.Result != "success" || !slices.Equal(s.Unmet, []string{"ConditionPathExists=/x"}) {
		t.Errorf("%+v, %v", s, err)
	}
	if len(s.NotUp) != 1 || s.NotUp[0].Name != "tap.service" {
		t.Errorf("units that are not active: %+v", s.NotUp)
	}
}

func TestChangesAreWatched(t *testing.T) {
	f := newFake(t, nil)
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() { ended <- Watch(soon(t), changed) }()
	notice := func(within time.Duration) bool {
		t.Helper()
		select {
		case <-changed:
			return true
		case err := <-ended:
			t.Fatalf("the watch ended: %v", err)
		case <-time.After(within):
		}
		return false
	}
	if !notice(20 * time.Second) {
		t.Fatal("no notice at first")
	}
	for try := 0; ; try++ { // the fake may still be authenticating the client
		f.signal("UnitNew", web.Name, web.Path)
		if notice(100 * time.Millisecond) {
			break
		}
		if try == 200 {
			t.Fatal("no notice after a signal")
		}
	}
	f.hangUp()
	if err := <-ended; err == nil || exit.Hint(err) != "try again" {
		t.Errorf("after the connection was closed: %v", err)
	}
}

func TestMachinedIsOptional(t *testing.T) {
	answer := ""
	newFake(t, map[string]method{machinesOf + ".UnregisterMachine": func([]any) []any {
		return []any{dbus.Error{Name: answer, Body: []any{"no"}}}
	}})
	for name, want := range map[string]string{
		noSuchMachine: "",
		noService:     "unregister web from systemd-machined: systemd-machined is not installed",
		unknownMethod: "unregister web from systemd-machined: no",
	} {
		answer = name
		err := Unregister(soon(t), "web")
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if hint := exit.Hint(err); (hint != "") != (name == noService) {
			t.Errorf("%s: hint %q", name, hint)
		}
	}
	if err := Register(soon(t), Machine{Name: "web", UUID: "x"}); err == nil || !strings.Contains(err.Error(), `invalid UUID "x"`) {
		t.Errorf("%v", err)
	}
}

func TestAVMIsRegisteredWithMachined(t *testing.T) {
	var got []any
	f := newFake(t, map[string]method{
		machinesOf + ".UnregisterMachine":          func([]any) []any { return []any{dbus.Error{Name: noSuchMachine, Body: []any{"no"}}} },
		machinesOf + ".RegisterMachineWithNetwork": func(args []any) []any { got = args; return []any{dbus.ObjectPath("/m")} },
	})
	m := Machine{Name: "web", UUID: "01234567-89ab-cdef-0123-456789abcdef", Leader: os.Getpid(), Interfaces: []int{3}}
	if err := registerWithNetworkOnly(t, m); err != nil {
		t.Fatal(err)
	}
	if len(got) != 7 || got[0] != "web" || got[2] != service || got[3] != class || got[4] != uint32(os.Getpid()) || fmt.Sprint(got[6]) != "[3]" {
		t.Errorf("registered with %v", got)
	}
	if !f.called(machinesOf + ".RegisterMachineWithNetwork") {
		t.Error("not registered")
	}
}

// registerWithNetworkOnly registers as with a machined before systemd 259. The fake
// receives no descriptors, as RegisterMachineEx passes one.
func registerWithNetworkOnly(t *testing.T, m Machine) error {
	t.Helper()
	return callMachined(soon(t), func(manager dbus.BusObject) error {
		return registerWithNetwork(soon(t), manager, m, make([]byte, 16))
	})
}

func TestWithoutSystemdNothingIsReloadedAndTheRestFails(t *testing.T) {
	oldSocket, oldRunning := privateSocket, running
	t.Cleanup(func() { privateSocket, running = oldSocket, oldRunning })
	privateSocket, running = filepath.Join(t.TempDir(), "no"), filepath.Join(t.TempDir(), "no")
	if Running() || Reload(soon(t)) != nil || Version() != 0 {
		t.Error("systemd is running")
	}
	_, err := ListUnits(soon(t))
	if err == nil || err.Error() != "systemd is not running" || exit.Hint(err) != "start the VM manually with: microvm run" {
		t.Errorf("%v", err)
	}
	for _, err := range []error{RunJobs(soon(t), Start, []string{web.Name}, nil), Enable(soon(t), nil), Disable(soon(t), nil), CancelJob(soon(t), 1)} {
		if !errors.Is(err, errNoManager) {
			t.Errorf("%v", err)
		}
	}
}
