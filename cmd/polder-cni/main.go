// Polder-cni is Polder's CNI plugin (specification 1.1.0). It checks what the runtime gives it, runs a delegated IPAM
// plugin where the configuration names one, and asks the agent for the rest; it touches no device, route or map
// itself. Called as polder-ipam it is an IPAM plugin for others.
//
// It does not use package skel of the CNI library, which answers success for a verb that a plugin lacks, looks at
// CNI_NETNS only after ADD has been carried out, leaves cniVersion out of errors, does not repeat it in answers to
// VERSION, and reads input without a limit.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/polder-net/polder/internal/api"
)

func main() {
	p := process{
		name: filepath.Base(os.Args[0]), env: os.Getenv, socket: api.Socket,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}
	os.Exit(p.run())
}

// ipamName is the name under which the binary is an IPAM plugin; as `ipam.type` it means Polder's own addresses.
const ipamName = "polder-ipam"

// maxInput is how much configuration is read: a hundred times what any holds.
const maxInput = 1 << 20

// process is what the runtime started and how it can be talked to.
type process struct {
	name           string // of the binary, as it was called
	env            func(string) string
	socket         string // the agent's
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run answers the runtime, with the result or an error on stdout, and returns the exit status.
func (p process) run() int {
	protocol := version.Current()
	out, err := p.answer(&protocol)
	if err != nil {
		out = encodeError(protocol, err)
	}
	if len(out) > 0 {
		if _, writeErr := p.stdout.Write(append(out, '\n')); writeErr != nil {
			fmt.Fprintln(p.stderr, "write answer:", writeErr)
			return 1
		}
	}
	if err != nil {
		return 1
	}
	return 0
}

// answer carries out what CNI_COMMAND says. It sets protocol as soon as the configuration's version is known.
func (p process) answer(protocol *string) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(p.stderr, "%v\n%s", r, debug.Stack())
			out, err = nil, fail(api.CodeInternal, "polder-cni has a bug: %v", r)
		}
	}()
	name := p.env("CNI_COMMAND")
	if name == "" {
		fmt.Fprintf(p.stderr, "%s is a CNI plugin, for container runtimes to call; versions %s\n", p.name, strings.Join(supported(), ", "))
		return nil, fail(api.CodeEnvironment, "CNI_COMMAND is not set")
	}
	input, err := read(p.stdin)
	if err != nil {
		return nil, err
	}
	if name == "VERSION" {
		return versions(input)
	}
	v, ok := verbs()[name]
	if !ok {
		return nil, fail(api.CodeEnvironment, "CNI_COMMAND %q is not known", name)
	}
	role := mainRole
	if p.name == ipamName {
		role = ipamRole
	}
	conf, err := parseConfig(input, name, role)
	if conf.version != "" {
		*protocol = conf.version
	}
	if err != nil {
		return nil, err
	}
	c, err := newCall(p, v.needs, conf)
	if err != nil {
		return nil, err
	}
	return v.do[role](context.Background(), c)
}

func read(stdin io.Reader) ([]byte, error) {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err != nil {
		return nil, fail(api.CodeIO, "read configuration: %v", err)
	}
	if len(input) > maxInput {
		return nil, fail(api.CodeDecode, "read configuration: more than %d bytes", maxInput)
	}
	return input, nil
}

// versions answers VERSION, in the version of the question.
func versions(input []byte) ([]byte, error) {
	answer := struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{version.Current(), supported()}
	fields, err := object("input", input)
	if raw, ok := fields["cniVersion"]; ok && err == nil {
		err = decode("cniVersion", raw, &answer.CNIVersion)
	}
	// Input that is missing or says no version is no reason to keep ours to ourselves: older runtimes send none.
	if _, _, _, bad := version.ParseVersion(answer.CNIVersion); bad != nil || err != nil || answer.CNIVersion == "" {
		answer.CNIVersion = version.Current()
	}
	return json.Marshal(answer)
}

// supported lists the versions of the specification that the plugin speaks.
func supported() []string { return version.VersionsStartingFrom("0.3.0").SupportedVersions() }

// fail makes an error with a code of the CNI specification.
func fail(code uint, format string, args ...any) *api.Error {
	return &api.Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// encodeError gives an error the form of the specification.
func encodeError(protocol string, err error) []byte {
	e := asError(err)
	body, encodeErr := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		api.Error
	}{protocol, *e})
	if encodeErr != nil {
		return []byte(`{"cniVersion":"1.1.0","code":999,"msg":"encode error"}`)
	}
	return body
}

// asError finds the code for an error: its own, or the one for what became of asking the agent.
func asError(err error) *api.Error {
	var coded *api.Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, api.ErrNoAgent):
		return &api.Error{Code: api.CodeTryAgain, Msg: "Polder's agent does not run on this node", Details: err.Error()}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE): // it ended meanwhile
		return &api.Error{Code: api.CodeTryAgain, Msg: "Polder's agent did not answer", Details: err.Error()}
	}
	return &api.Error{Code: api.CodeIO, Msg: err.Error()}
}
