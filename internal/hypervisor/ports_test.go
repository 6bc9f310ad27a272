package hypervisor

import (
	"reflect"
	"testing"

	"microvm/internal/spec"
)

func TestPortsOfTheHostAreThoseOfTheSpec(t *testing.T) {
	s, err := spec.Parse([]byte(`{"name":"a","arch":"x86_64","kernel":"/k","interfaces":[{"type":"user","id":"vm","mac":"02:00:00:00:00:01"}],"forwardPorts":[
{"from":"host","proto":"tcp","host":{"address":"","port":80},"guest":{"port":8080}},
{"from":"host","proto":"udp","host":{"address":"127.0.0.1","port":53},"guest":{"port":53}},
{"from":"guest","proto":"tcp","host":{"address":"127.0.0.1","port":25},"guest":{"address":"10.0.2.100","port":25}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&Builder{}).Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	want := []HostPort{{"tcp", "", 80}, {"udp", "127.0.0.1", 53}}
	if got := p.HostPorts(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
