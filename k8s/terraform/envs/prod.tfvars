# A warm machine of the small class, large ones on demand, spot beside it for what can wait.
project_id  = "example-strongroom-prod"
environment = "prod"
region      = "europe-west4"
bucket_name = "example-strongroom-prod-artifacts"

# Nobody reaches the control plane from outside: Terraform runs inside the network.
private_endpoint    = true
authorized_networks = { runners = "10.10.0.0/20" }

release_channel      = "STABLE"
binary_authorization = true

general_pool = {
  machine_type = "n2-standard-8"
  min_nodes    = 1
  max_nodes    = 6
}

gpu_pools = {
  l4 = {
    machine_type      = "g2-standard-16"
    accelerator_type  = "nvidia-l4"
    accelerator_count = 1
    local_ssd_count   = 1
    min_nodes         = 1
    max_nodes         = 20
    surge_max         = 1
    unavailable_max   = 0
  }

  l4-spot = {
    machine_type      = "g2-standard-16"
    accelerator_type  = "nvidia-l4"
    accelerator_count = 1
    local_ssd_count   = 1
    spot              = true
    min_nodes         = 0
    max_nodes         = 20
  }

  h100 = {
    machine_type      = "a3-highgpu-8g"
    accelerator_type  = "nvidia-h100-80gb"
    accelerator_count = 8
    local_ssd_count   = 16
    min_nodes         = 0
    max_nodes         = 4
  }

  a100-slices = {
    machine_type      = "a2-ultragpu-1g"
    accelerator_type  = "nvidia-a100-80gb"
    accelerator_count = 1
    mig_partition     = "1g.10gb"
    min_nodes         = 0
    max_nodes         = 4
  }
}

database = {
  tier             = "db-custom-16-65536"
  highly_available = true
  disk_size_gb     = 500
  backups_kept     = 30
}

cache = {
  memory_size_gb   = 5
  highly_available = true
}
