package watch

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// restConfig says how to reach the API server, and at which other addresses, if not at that one.
func restConfig(kubeconfig, version string, log *slog.Logger) (cfg *rest.Config, others []string, err error) {
	if kubeconfig == "" {
		if cfg, err = rest.InClusterConfig(); err != nil {
			return nil, nil, fmt.Errorf("%w (outside a cluster, give --kubeconfig FILE or --manifests DIR)", err)
		}
		if !setByHand(os.Getenv) {
			others = preferKubelet(cfg, hostRoot, log)
		}
	} else {
		file, err := clientcmd.LoadFromFile(kubeconfig)
		if err != nil {
			return nil, nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
		if cfg, err = clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig(); err != nil {
			return nil, nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
	}
	cfg.UserAgent = fmt.Sprintf("polder-agent/%s (%s/%s)", version, runtime.GOOS, runtime.GOARCH)
	return cfg, others, nil
}

// setByHand says whether the API server's address in this pod's environment is not the kubelet's doing. The kubelet
// writes it into several variables, of which people set two.
func setByHand(getenv func(string) string) bool {
	address := net.JoinHostPort(getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT"))
	return getenv("KUBERNETES_PORT") != "tcp://"+address
}

// clients are one for each API group that is read. They share their connections.
type clients struct{ core, discovery, networking, policies *rest.RESTClient }

func newClients(cfg *rest.Config) (c clients, err error) {
	cfg = rest.CopyConfig(cfg)
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	// A third of JSON's bytes and a tenth of its time. Of resources that were defined in the cluster, as
	// ClusterNetworkPolicies are, API servers know JSON alone.
	cfg.ContentType = kruntime.ContentTypeProtobuf
	cfg.AcceptContentTypes = kruntime.ContentTypeProtobuf + "," + kruntime.ContentTypeJSON
	cfg.QPS, cfg.Burst = 10, 20 // nine watches and, once, two patches: only a fault comes near
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return c, err
	}
	for _, group := range []struct {
		client **rest.RESTClient
		path   string
		of     schema.GroupVersion
	}{
		{&c.core, "/api", corev1.SchemeGroupVersion},
		{&c.discovery, "/apis", discoveryv1.SchemeGroupVersion},
		{&c.networking, "/apis", networkingv1.SchemeGroupVersion},
		{&c.policies, "/apis", schema.GroupVersion(policyv1alpha2.GroupVersion)},
	} {
		cfg.APIPath, cfg.GroupVersion = group.path, &group.of
		if *group.client, err = rest.RESTClientForConfigAndClient(cfg, transport); err != nil {
			return c, err
		}
	}
	return c, nil
}
