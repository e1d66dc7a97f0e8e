package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/polder-net/polder/internal/api"
)

// role is what the binary is called as.
type role int

const (
	mainRole role = iota
	ipamRole
)

// verb is one of CNI's verbs: since which version there is one, the variables that it needs, and what does it in
// each role.
type verb struct {
	since string
	needs []string
	do    [2]func(context.Context, *call) ([]byte, error)
}

// verbs are all verbs but VERSION, which has no configuration.
func verbs() map[string]verb {
	attachment := []string{"CNI_CONTAINERID", "CNI_IFNAME"}
	inNetns := append([]string{"CNI_NETNS"}, attachment...)
	return map[string]verb{
		"ADD":    {"0.3.0", inNetns, [2]func(context.Context, *call) ([]byte, error){addLink, reserve}},
		"DEL":    {"0.3.0", attachment, [2]func(context.Context, *call) ([]byte, error){delLink, release}},
		"CHECK":  {"0.4.0", inNetns, [2]func(context.Context, *call) ([]byte, error){checkLink, reserved}},
		"GC":     {"1.1.0", []string{"CNI_PATH"}, [2]func(context.Context, *call) ([]byte, error){gcLinks, gcReservations}},
		"STATUS": {"1.1.0", nil, [2]func(context.Context, *call) ([]byte, error){statusMain, statusIPAM}},
	}
}

// call is one call of the plugin, checked.
type call struct {
	process
	conf config
	api.Attachment
	netns string // path; may be empty for DEL
}

// newCall takes the variables that a verb needs from the environment.
func newCall(p process, needs []string, conf config) (*call, error) {
	c := &call{process: p, conf: conf, Attachment: api.Attachment{Network: conf.name}, netns: p.env("CNI_NETNS")}
	checks := map[string]func(string) error{
		"CNI_CONTAINERID": func(v string) error { c.ContainerID = v; return api.ValidateContainerID(v) },
		"CNI_IFNAME":      func(v string) error { c.Ifname = v; return api.ValidateIfname(v) },
	}
	var missing []string
	for _, name := range needs {
		value := p.env(name)
		if value == "" {
			missing = append(missing, name)
			continue
		}
		if check := checks[name]; check != nil {
			if err := check(value); err != nil {
				return nil, fail(api.CodeEnvironment, "%s: %v", name, err)
			}
		}
	}
	if len(missing) > 0 {
		return nil, fail(api.CodeEnvironment, "not set: %s", strings.Join(missing, ", "))
	}
	if c.ContainerID != "" {
		if err := c.Attachment.Validate(); err != nil {
			return nil, fail(api.CodeEnvironment, "CNI_CONTAINERID, CNI_IFNAME: %v", err)
		}
	}
	return c, nil
}

// podArgs are the arguments in CNI_ARGS that runtimes give for Kubernetes pods. The library finds them by field name.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID types.UnmarshallableString
}

// namePod says in a request which pod CNI_ARGS names. An argument that is not known is an error unless IgnoreUnknown says
// otherwise.
func namePod(req *api.Request, text string) error {
	var args podArgs
	err := types.LoadArgs(strings.TrimSuffix(text, ";"), &args)
	if err == nil {
		req.PodNamespace, req.PodName, req.PodUID = string(args.K8S_POD_NAMESPACE), string(args.K8S_POD_NAME), string(args.K8S_POD_UID)
		err = errors.Join(api.ValidatePod(req.PodNamespace, req.PodName), api.ValidatePodUID(req.PodUID))
	}
	if err != nil {
		return fail(api.CodeEnvironment, "CNI_ARGS: %v", err)
	}
	if req.PodName == "" {
		req.PodUID = "" // of nothing that anybody asks about
	}
	return nil
}

// openNetns opens CNI_NETNS, which must be a network namespace and not the one that the plugin is in.
func (c *call) openNetns() (*os.File, error) {
	if !filepath.IsAbs(c.netns) {
		return nil, fail(api.CodeInvalidNetns, "CNI_NETNS %q is not an absolute path", c.netns)
	}
	f, err := api.OpenNetns(c.netns)
	if err != nil {
		return nil, fail(api.CodeInvalidNetns, "CNI_NETNS: %v", err)
	}
	theirs, err := f.Stat()
	if err == nil {
		var ours os.FileInfo
		if ours, err = os.Stat("/proc/self/ns/net"); err == nil && os.SameFile(ours, theirs) {
			err = errors.New("this is the host's own network namespace")
		}
	}
	if err != nil {
		f.Close()
		return nil, fail(api.CodeInvalidNetns, "CNI_NETNS %s: %v", c.netns, err)
	}
	return f, nil
}

// ask asks the agent. netns may be nil.
func (c *call) ask(ctx context.Context, req api.Request, netns *os.File) (api.Response, error) {
	if err := req.Validate(); err != nil {
		return api.Response{}, fail(api.CodeInvalidConfig, "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, api.CallTime)
	defer cancel()
	return api.Call(ctx, c.socket, req, netns)
}

// request starts a request about the call's attachment.
func (c *call) request(v api.Verb) api.Request { return api.Request{Verb: v, Attachment: c.Attachment} }

// gather makes one error of all that went wrong, with the code of the first.
func gather(what string, errs ...error) error {
	var all []string
	var first error
	for _, err := range errs {
		if err != nil {
			all = append(all, asError(err).Error())
			if first == nil {
				first = err
			}
		}
	}
	if len(all) < 2 {
		return first
	}
	return &api.Error{Code: asError(first).Code, Msg: what + " went wrong in more than one way", Details: strings.Join(all, "; ")}
}
