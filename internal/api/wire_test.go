package api

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestEmptyListOfValidAttachmentsIsNotAMissingOne(t *testing.T) {
	for _, valid := range [][]Attachment{{}, {{"n", "c", "eth0"}}} {
		body, err := json.Marshal(Request{Verb: GC, Attachment: Attachment{Network: "n"}, Valid: valid})
		if err != nil {
			t.Fatal(err)
		}
		req, err := decode(body)
		if err != nil {
			t.Fatal(err)
		}
		if req.Valid == nil || len(req.Valid) != len(valid) {
			t.Errorf("%s became %v", body, req.Valid)
		}
	}
	if _, err := decode([]byte(`{"verb":"gc","network":"n","containerID":"","ifname":""}`)); err == nil {
		t.Error("GC without a list was accepted")
	}
	if _, err := decode([]byte(`{"verb":"gc","network":"n","containerID":"","ifname":"","valid":null}`)); err == nil {
		t.Error("GC with a null list was accepted")
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, body := range map[string]string{
		"empty":         ``,
		"null":          `null`,
		"list":          `[]`,
		"string":        `"add"`,
		"unknown field": `{"verb":"status","shred":true}`,
		"two":           `{"verb":"status"}{"verb":"status"}`,
		"garbage after": `{"verb":"status"}x`,
		"wrong type":    `{"verb":1}`,
		"deep":          strings.Repeat(`{"verb":`, 100000),
		"not JSON":      "\x00\xff",
	} {
		t.Run(name, func(t *testing.T) {
			if req, err := decode([]byte(body)); err == nil {
				t.Errorf("accepted as %+v", req)
			}
		})
	}
}

// Whatever is accepted is valid, and means the same when it is sent on.
func FuzzRequest(f *testing.F) {
	full := Request{
		Verb: Check, Attachment: Attachment{"n", "c", "eth0"}, PodNamespace: "ns", PodName: "p",
		Addresses: []Address{{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParseAddr("10.1.2.1")}, {Prefix: netip.MustParsePrefix("fd00::3/128")}},
		Routes:    []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1"), MTU: 1400}},
		Host:      &Interface{"pdr00000000000", "ee:ee:ee:ee:ee:ee", 1500}, Pod: &Interface{Name: "eth0"}, DelegatedIPAM: true,
	}
	body, err := json.Marshal(full)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"verb":"gc","network":"n","valid":[{"network":"n","containerID":"c","ifname":"eth0"}],"ipam":true}`))
	f.Add([]byte(`{"verb":"gc","network":"n","valid":[]}`))
	f.Add([]byte(`{"verb":"status"}`))
	f.Add([]byte(`{"verb":"del","network":"../n","containerID":"c\u0000","ifname":"eth%d"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decode(body)
		if err != nil {
			return
		}
		if err := req.Validate(); err != nil {
			t.Fatalf("accepted what is not valid: %v", err)
		}
		sent, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(sent)
		if err != nil {
			t.Fatalf("%s: %v", sent, err)
		}
		once, _ := json.Marshal(again)
		if string(once) != string(sent) || !reflect.DeepEqual(again.Valid, req.Valid) {
			t.Fatalf("%s became %s", sent, once)
		}
	})
}
