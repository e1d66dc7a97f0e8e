package watch

import (
	"fmt"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// restConfig says how to reach the API server. In a pod, its address comes from the environment variables
// KUBERNETES_SERVICE_HOST and _PORT, which a DaemonSet may set where nothing routes to the Service yet.
func restConfig(kubeconfig, version string) (*rest.Config, error) {
	var cfg *rest.Config
	if kubeconfig == "" {
		var err error
		if cfg, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("%w (outside a cluster, give --kubeconfig FILE or --manifests DIR)", err)
		}
	} else {
		file, err := clientcmd.LoadFromFile(kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
		if cfg, err = clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig(); err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
	}
	cfg.UserAgent = fmt.Sprintf("polder-agent/%s (%s/%s)", version, runtime.GOOS, runtime.GOARCH)
	clientFor(cfg)
	return cfg, nil
}

// clientFor sets what does not depend on where the API server is.
func clientFor(cfg *rest.Config) {
	cfg.APIPath = "/api"
	cfg.GroupVersion = &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	cfg.ContentType = kruntime.ContentTypeProtobuf // a third of JSON's bytes and a tenth of its time
	cfg.AcceptContentTypes = kruntime.ContentTypeProtobuf + "," + kruntime.ContentTypeJSON
	cfg.QPS, cfg.Burst = 10, 20 // two watches and, once, two patches: only a fault comes near
}
